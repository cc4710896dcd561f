"""Wanda: pruning by weights and activations (Sun et al. 2024, section 3, equation 1).

A weight matters as much as the signal that it carries. Its score is its magnitude times the
norm of its input feature over the calibration tokens, compared within each output row::

    S_ij = |W_ij| * ||X_j||_2

Weights are not updated.
"""

from torch import Tensor

from compression.pruning.patterns import Pattern, prune_mask


def wanda_scores(weight: Tensor, input_norm: Tensor) -> Tensor:
    """Scores ``(rows, columns)`` of ``weight`` for input norms ``(columns,)``, in float32."""
    return weight.float().abs() * input_norm.float()


def wanda(weight: Tensor, input_norm: Tensor, pattern: Pattern) -> Tensor:
    """``weight`` ``(rows, columns)`` with its lowest-scoring entries set to zero.

    Weights on features that never fire all score zero; among them the smallest goes first.
    """
    scores = wanda_scores(weight, input_norm)
    mask = prune_mask(scores, pattern, per_row=True, tie_break=weight.float().abs())
    return weight.masked_fill(mask, 0.0)
