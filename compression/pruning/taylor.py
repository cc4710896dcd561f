"""First-order Taylor pruning (Molchanov et al. 2017, section 2.2, equation 8, per weight).

To first order, setting a weight to zero changes the loss by::

    S_ij = |W_ij * dL/dW_ij|

The gradient is that of the mean loss over the calibration data.
"""

from torch import Tensor

from compression_gates.compression.model.gradients import mean_gradients
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import (
    PruningTask,
    Scores,
    layer_view,
    prune_lowest,
)


def taylor_scores(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return ``|weight * gradient|`` element by element, in float32; both have the same shape."""
    return (weight.float() * gradient.float()).abs()


def prune(task: PruningTask) -> None:
    """Prune the layers of a task in place; ties are broken by magnitude.

    Raises:
        CompressionError: there is no batch, or the loss is not finite.
    """
    parameters = {id(layer.stored): layer.stored for layer in task.layers.values()}
    model = task.compressed.model
    means = mean_gradients(model, list(parameters.values()), task.batches, desc=task.step.name)
    gradients = dict(zip(parameters, means, strict=True))

    def scores(name: str) -> Scores:
        layer = task.layers[name]
        weight, gradient = layer.weight.detach(), layer_view(layer, gradients[id(layer.stored)])
        return taylor_scores(weight, gradient), magnitude_scores(weight)

    prune_lowest(task, scores)
