"""Sparsity patterns, unstructured and N:M, and the masks that they select from scores.

The lowest scores of each comparison group are pruned. Ties are broken by a second score and then
by position, so the number of pruned weights is always exact. The usual ``scores <= threshold``
prunes every tie: 54.7 % of a matrix on a 4-bit grid for a requested 50 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compression_gates.compression.errors import RecipeError


def lowest_mask(scores: Tensor, count: int, tie_break: Tensor | None = None) -> Tensor:
    """Return the mask of the ``count`` lowest scores along the last dimension.

    Args:
        scores: ``(..., n)``, finite.
        count: number of true elements along the last dimension, ``0 <= count <= n``.
        tie_break: ``(..., n)``; orders equal scores. Where it is equal too, or None, the earlier
            position is lower.

    Returns:
        A boolean mask shaped like ``scores``.
    """
    if count:
        lowest = scores.topk(count, largest=False, sorted=False).values
        mask = scores <= lowest.amax(dim=-1, keepdim=True)
        # Sorting, which is slower, is only needed to choose among scores equal to the threshold.
        if (mask.sum(dim=-1) == count).all():
            return mask
    if tie_break is None:
        order = scores.argsort(dim=-1, stable=True)
    else:
        first = tie_break.argsort(dim=-1, stable=True)
        order = first.gather(-1, scores.gather(-1, first).argsort(dim=-1, stable=True))
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(-1, order[..., :count], True)


@dataclass(frozen=True)
class Unstructured:
    """Prune a fraction of the weights, at any position.

    Attributes:
        sparsity: the fraction, 0 to 1.

    Raises:
        RecipeError: the fraction is outside 0 to 1.
    """

    sparsity: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity <= 1.0:
            raise RecipeError(f"sparsity = {self.sparsity}: must be between 0 and 1")

    def __str__(self) -> str:
        return f"{self.sparsity * 100:g}"

    def count(self, size: int) -> int:
        """Return the number of weights to prune out of ``size``."""
        return round(self.sparsity * size)

    def expected_zeros(self, rows: int, columns: int, per_row: bool) -> int:
        """Return the number of weights to prune; if ``per_row``, rounded in each row separately."""
        return rows * self.count(columns) if per_row else self.count(rows * columns)

    def check(self, columns: int) -> None:
        """Accept every input width."""


@dataclass(frozen=True)
class NofM:
    """Keep ``n`` of every ``m`` consecutive weights of a row (2:4 for sparse tensor cores).

    Raises:
        RecipeError: not ``0 < n < m``.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise RecipeError(
                f"pattern {self.n}:{self.m}: N must be at least 1 and less than M in N:M"
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def check(self, columns: int) -> None:
        """Raise a RecipeError if ``m`` does not divide the input width ``columns``."""
        if columns % self.m:
            raise RecipeError(
                f"pattern {self}: an input width of {columns} is not a multiple of {self.m}; "
                "exclude the layer or prune it unstructured"
            )

    def expected_zeros(self, rows: int, columns: int, per_row: bool) -> int:
        """Return the number of weights to prune in a matrix."""
        return rows * columns * (self.m - self.n) // self.m

    def mask(self, scores: Tensor, tie_break: Tensor | None = None) -> Tensor:
        """Return the mask of the weights to prune, for scores ``(rows, columns)``."""
        groups = scores.unflatten(-1, (-1, self.m))
        ties = None if tie_break is None else tie_break.unflatten(-1, (-1, self.m))
        return lowest_mask(groups, self.m - self.n, ties).flatten(-2)


Pattern = Unstructured | NofM


def prune_mask(
    scores: Tensor, pattern: Pattern, *, per_row: bool, tie_break: Tensor | None = None
) -> Tensor:
    """Return the mask ``(rows, columns)`` of the weights to prune, those with the lowest scores.

    Args:
        scores: ``(rows, columns)``.
        pattern: how many weights to prune.
        per_row: whether scores are compared within each row (Wanda) instead of over the whole
            matrix (magnitude). An N:M pattern always compares within its groups.
        tie_break: as for :func:`lowest_mask`.

    Raises:
        RecipeError: the pattern does not fit the number of columns.
    """
    pattern.check(scores.shape[-1])
    if isinstance(pattern, NofM):
        return pattern.mask(scores, tie_break)
    shape = scores.shape if per_row else (-1,)
    compared = scores.reshape(shape)
    ties = None if tie_break is None else tie_break.reshape(shape)
    return lowest_mask(compared, pattern.count(compared.shape[-1]), ties).view_as(scores)


def global_masks(
    scores: Mapping[str, Tensor],
    pattern: Unstructured,
    tie_break: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the masks of the weights to prune, those with the lowest scores over all layers.

    The threshold is found by bisection, so that the scores of a whole model are never sorted.

    Args:
        scores: of each layer, any shape, float32, finite and not negative.
        pattern: how many weights to prune over all layers.
        tie_break: shaped like ``scores``; orders equal scores, as for :func:`lowest_mask`.
    """
    count = pattern.count(sum(score.numel() for score in scores.values()))
    # Non-negative floats have the same order as their bit patterns read as integers.
    bits = {name: score.contiguous().view(torch.int32) for name, score in scores.items()}

    def below(limit: int) -> int:
        return sum(int((part < limit).sum()) for part in bits.values())

    low, high = 0, 2**31 - 1  # find the largest limit with below(limit) <= count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if below(middle) <= count else (low, middle - 1)
    masks = {name: part < low for name, part in bits.items()}
    left = count - sum(int(mask.sum()) for mask in masks.values())
    if left:
        tied = {name: part == low for name, part in bits.items()}
        # Without a tie break, the equal scores themselves leave the decision to the position.
        values = scores if tie_break is None else tie_break
        ties = torch.cat([values[name][where] for name, where in tied.items()])
        chosen = lowest_mask(ties, left).split([int(mask.sum()) for mask in tied.values()])
        for (name, where), part in zip(tied.items(), chosen, strict=True):
            masks[name][where] = part
    return masks
