"""First-order Taylor pruning (Molchanov et al. 2017, section 2.2, equation 8, per weight).

To first order, setting a weight to zero changes the loss by::

    S_ij = |W_ij * dL/dW_ij|

The gradient is that of the mean loss over the calibration data.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.gradients import mean_gradients
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import (
    Scores,
    apply_masks,
    layer_view,
    masks_by_score,
)
from compression_gates.compression.pruning.patterns import Pattern
from compression_gates.compression.recipe import Step


def taylor_scores(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return ``|weight * gradient|`` element by element, in float32; both have the same shape."""
    return (weight.float() * gradient.float()).abs()


def prune(
    compressed: Compressed,
    layers: Mapping[str, Layer],
    patterns: Mapping[str, Pattern],
    step: Step,
    batches: Sequence[Batch],
) -> None:
    """Prune ``layers`` in place. Among equal scores, the smallest magnitude is pruned first.

    Raises:
        CompressionError: there is no batch, or the loss is not finite.
    """
    parameters = {id(layer.stored): layer.stored for layer in layers.values()}
    means = mean_gradients(compressed.model, list(parameters.values()), batches, desc=step.name)
    gradients = dict(zip(parameters, means, strict=True))

    def scores(name: str) -> Scores:
        weight = layers[name].weight.detach()
        gradient = layer_view(layers[name], gradients[id(layers[name].stored)])
        return taylor_scores(weight, gradient), magnitude_scores(weight)

    apply_masks(layers, masks_by_score(scores, layers, patterns, step["scope"]))
