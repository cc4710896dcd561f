"""First-order Taylor pruning (Molchanov et al. 2017, section 2.2, equation 8, per weight).

What the loss changes by when a weight is set to zero is, to first order::

    S_ij = |W_ij * dL/dW_ij|

with the gradient of the mean loss over the calibration data.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.gradients import mean_gradients
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import Scores, apply_masks, masks_of, part_of
from compression_gates.compression.pruning.patterns import Pattern
from compression_gates.compression.recipe import Step


def taylor_scores(weight: Tensor, gradient: Tensor) -> Tensor:
    """Scores like ``weight``, in float32."""
    return (weight.float() * gradient.float()).abs()


def prune(
    compressed: Compressed,
    layers: Mapping[str, Layer],
    patterns: Mapping[str, Pattern],
    step: Step,
    batches: Sequence[Batch],
) -> None:
    """Prunes ``layers`` in place; among equal scores the smallest magnitude goes first."""
    stored = list({id(layer.stored): layer.stored for layer in layers.values()}.values())
    gradients = mean_gradients(compressed.model, stored, batches, desc=step.name)
    by_id = {id(parameter): gradient for parameter, gradient in zip(stored, gradients, strict=True)}

    def scores(name: str) -> Scores:
        weight = layers[name].weight.detach()
        gradient = part_of(layers[name], by_id[id(layers[name].stored)])
        return taylor_scores(weight, gradient), magnitude_scores(weight)

    apply_masks(layers, masks_of(scores, layers, patterns, step["scope"]))
