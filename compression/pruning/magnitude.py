"""Magnitude pruning (Han et al. 2015, "Learning both weights and connections", section 3).

The weights with the smallest absolute value go, compared over the whole layer::

    S_ij = |W_ij|
"""

from torch import Tensor

from compression.pruning.patterns import Pattern, prune_mask


def magnitude(weight: Tensor, pattern: Pattern) -> Tensor:
    """``weight`` ``(rows, columns)`` with its smallest entries set to zero."""
    mask = prune_mask(weight.float().abs(), pattern, per_row=False)
    return weight.masked_fill(mask, 0.0)
