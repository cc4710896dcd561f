"""Magnitude pruning (Han et al. 2015, "Learning both weights and connections", section 3).

The weights with the smallest absolute values are pruned. They are compared within a layer, within
a row or over the whole model::

    S_ij = |W_ij|
"""

from torch import Tensor

from compression_gates.compression.pruning.masks import PruningTask, Scores, prune_lowest


def magnitude_scores(weight: Tensor) -> Tensor:
    """Return the absolute values of ``weight``, of any shape, in float32."""
    return weight.float().abs()


def prune(task: PruningTask) -> None:
    """Prune the layers of a task in place, without calibration data."""

    def scores(name: str) -> Scores:
        return magnitude_scores(task.layers[name].weight.detach()), None

    prune_lowest(task, scores)
