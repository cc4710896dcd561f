"""Wanda: pruning by weights and activations (Sun et al. 2024, section 3, equation 1).

The score of a weight is its magnitude times the L2 norm of its input feature over the calibration
tokens. Scores are compared within each output row::

    S_ij = |W_ij| * ||X_j||_2

The remaining weights are not updated.
"""

from torch import Tensor

from compression_gates.compression.errors import naming
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import (
    PruningTask,
    calibrated_layers,
    write_pruned,
)
from compression_gates.compression.pruning.patterns import Pattern, prune_mask


def wanda_scores(weight: Tensor, input_norm: Tensor) -> Tensor:
    """Return ``|W_ij| * ||X_j||_2`` in float32.

    Args:
        weight: ``(rows, columns)``.
        input_norm: ``(columns,)`` L2 norms of the input features.
    """
    return weight.float().abs() * input_norm.float()


def wanda(weight: Tensor, input_norm: Tensor, pattern: Pattern) -> Tensor:
    """Return ``weight`` with the lowest scores of each row, or of each N:M group, set to zero.

    Among equal scores, such as those of a feature that is always zero, the smallest magnitude is
    pruned first.

    Args:
        weight: ``(rows, columns)``.
        input_norm: ``(columns,)`` L2 norms of the input features.
        pattern: how many weights to prune.

    Raises:
        RecipeError: the pattern does not fit the number of columns.
    """
    scores = wanda_scores(weight, input_norm)
    mask = prune_mask(scores, pattern, per_row=True, tie_break=magnitude_scores(weight))
    return weight.masked_fill(mask, 0.0)


def prune(task: PruningTask) -> None:
    """Prune the layers of a task in place, on the outputs of the earlier pruned blocks.

    An expert without calibration tokens has input norms of zero and is pruned by magnitude.

    Raises:
        CompressionError: the calibration failed, or a result is not as requested.
    """
    for name, layer, moments in calibrated_layers(task, with_products=False):
        with naming(name):
            after = wanda(layer.weight.detach(), moments.norm, task.patterns[name])
        write_pruned(name, layer, after, task.patterns[name], per_row=True)
