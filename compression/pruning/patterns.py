"""Which weights of a layer to prune: unstructured sparsity and N:M patterns, counted exactly.

A *pattern* turns scores into a mask. It prunes the lowest scores of each comparison group;
ties are broken by a second score, then by position, so the number of pruned weights never
depends on how the scores fall. (The usual ``scores <= threshold`` prunes every tie: 54.7 % of a
matrix on a 4-bit grid at a requested 50 %.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compression_gates.compression.errors import RecipeError


def lowest(scores: Tensor, count: int, tie_break: Tensor | None = None) -> Tensor:
    """Mask of the ``count`` lowest scores along the last dimension.

    Args:
        scores: ``(..., n)``, finite.
        count: how many to mark, ``0 <= count <= n``.
        tie_break: ``(..., n)``; among equal scores the lower goes first. Then position decides.

    Returns:
        Boolean mask like ``scores``, exactly ``count`` true along the last dimension.
    """
    if tie_break is None:
        order = scores.argsort(dim=-1, stable=True)
    else:
        first = tie_break.argsort(dim=-1, stable=True)
        order = first.gather(-1, scores.gather(-1, first).argsort(dim=-1, stable=True))
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(-1, order[..., :count], True)


@dataclass(frozen=True)
class Unstructured:
    """Prune the share ``sparsity`` of the weights, wherever they stand."""

    sparsity: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity <= 1.0:
            raise RecipeError(f"sparsity = {self.sparsity}: give a share between 0 and 1")

    def __str__(self) -> str:
        return f"{self.sparsity * 100:g}"

    def count(self, size: int) -> int:
        """Weights pruned out of ``size``."""
        return round(self.sparsity * size)

    def expected_zeros(self, rows: int, columns: int, per_row: bool) -> int:
        return rows * self.count(columns) if per_row else self.count(rows * columns)

    def check(self, columns: int) -> None:
        """Any width will do."""


@dataclass(frozen=True)
class NofM:
    """Keep ``n`` of every ``m`` consecutive weights of a row (2:4 for sparse tensor cores)."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise RecipeError(f"pattern {self.n}:{self.m}: keep at least 1 and fewer than all")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def check(self, columns: int) -> None:
        if columns % self.m:
            raise RecipeError(
                f"pattern {self}: an input width of {columns} is not a multiple of {self.m}; "
                "exclude the layer or prune it unstructured"
            )

    def expected_zeros(self, rows: int, columns: int, per_row: bool) -> int:
        return rows * columns * (self.m - self.n) // self.m

    def mask(self, scores: Tensor, tie_break: Tensor | None = None) -> Tensor:
        """Mask of the pruned weights, for scores ``(rows, columns)``."""
        groups = scores.unflatten(-1, (-1, self.m))
        ties = None if tie_break is None else tie_break.unflatten(-1, (-1, self.m))
        return lowest(groups, self.m - self.n, ties).flatten(-2)


Pattern = Unstructured | NofM


def prune_mask(
    scores: Tensor, pattern: Pattern, *, per_row: bool, tie_break: Tensor | None = None
) -> Tensor:
    """Mask of the weights to prune, by lowest score.

    Args:
        scores: ``(rows, columns)``.
        pattern: how many to prune.
        per_row: compare within each row (Wanda) or over the whole matrix (magnitude);
            an N:M pattern compares within its groups either way.
        tie_break: as for :func:`lowest`.
    """
    pattern.check(scores.shape[-1])
    if isinstance(pattern, NofM):
        return pattern.mask(scores, tie_break)
    if per_row:
        return lowest(scores, pattern.count(scores.shape[-1]), tie_break)
    ties = None if tie_break is None else tie_break.flatten()
    return lowest(scores.flatten(), pattern.count(scores.numel()), ties).view_as(scores)


def global_masks(
    scores: Mapping[str, Tensor],
    pattern: Unstructured,
    tie_break: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Masks of the weights to prune where all layers compete, by lowest score.

    The highest score that goes is found bit by bit, so that no sorted copy of a whole model is
    ever made.

    Args:
        scores: of each layer, any shape, float32, finite and not negative.
        pattern: how many to prune of all together.
        tie_break: like ``scores``; among equal scores the lower goes first. Then position decides.
    """
    count = pattern.count(sum(score.numel() for score in scores.values()))
    # Of floats that are not negative, order is that of their bits read as integers.
    bits = {name: score.contiguous().view(torch.int32) for name, score in scores.items()}

    def below(limit: int) -> int:
        return sum(int((part < limit).sum()) for part in bits.values())

    low, high = 0, 2**31 - 1  # below(low) <= count, and the threshold is the largest such limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if below(middle) <= count else (low, middle - 1)
    masks = {name: part < low for name, part in bits.items()}
    left = count - sum(int(mask.sum()) for mask in masks.values())
    if left:
        tied = {name: part == low for name, part in bits.items()}
        ties = torch.cat(
            [
                torch.zeros(int(tied[name].sum()), device=tied[name].device)
                if tie_break is None
                else tie_break[name][tied[name]]
                for name in tied
            ]
        )
        chosen = lowest(ties, left).split([int(mask.sum()) for mask in tied.values()])
        for (name, where), part in zip(tied.items(), chosen, strict=True):
            masks[name][where] = part
    return masks
