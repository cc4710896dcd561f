"""Outlier weighed layerwise sparsity, OWL (Yin et al. 2023, section 3.2).

A block with many outliers is pruned less. With the scores ``A_ij = |W_ij| * ||X_j||`` of all its
weights, the share of outliers of block ``l`` is::

    D_l = mean(A > M * mean(A))

and its sparsity is ``1 - D_l``, moved and stretched so that the mean over all weights is the asked
``S`` and the block farthest from it differs by ``lambda``. (The paper's mean is over blocks; with
blocks of one size it is the same. Its code stretches the range to ``2 lambda`` wherever the mean
lies in it, and so leaves the paper's own bounds where it is not the middle.)
"""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import blocks
from compression_gates.compression.pruning.wanda import wanda_scores


def outlier_share(scores: Mapping[str, Tensor], outlier: float) -> float:
    """``D``: the share of all ``scores`` above ``outlier`` times their mean."""
    size = sum(score.numel() for score in scores.values())
    mean = sum(float(score.double().sum()) for score in scores.values()) / size
    return sum(int((score > outlier * mean).sum()) for score in scores.values()) / size


def spread_out(
    shares: list[float], sizes: list[int], sparsity: float, spread: float
) -> list[float]:
    """Sparsities that fall with the share of outliers, within ``spread`` of their mean.

    Args:
        shares: ``D`` of each block.
        sizes: weights of each block.
        sparsity: their mean over all weights, ``S``.
        spread: ``lambda``.
    """
    if max(shares) == min(shares):
        return [sparsity] * len(shares)
    total = sum(sizes)
    mean = sum(share * size for share, size in zip(shares, sizes, strict=True)) / total
    farthest = max(abs(share - mean) for share in shares)
    found = [sparsity - spread * (share - mean) / farthest for share in shares]
    # Near 0 and 1 what does not fit is spread over the blocks that have room.
    for _ in range(len(found)):
        clipped = [min(max(value, 0.0), 1.0) for value in found]
        gap = sparsity - sum(v * n for v, n in zip(clipped, sizes, strict=True)) / total
        room = [i for i, v in enumerate(clipped) if (v < 1 if gap > 0 else v > 0)]
        if abs(gap) < 1e-12 or not room:
            return clipped
        step = gap * total / sum(sizes[i] for i in room)
        found = [v + step if i in room else v for i, v in enumerate(clipped)]
    return [min(max(value, 0.0), 1.0) for value in found]


def owl_sparsities(
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    norms: Mapping[str, Tensor],
    sparsity: float,
    outlier: float,
    spread: float,
) -> dict[str, float]:
    """The sparsity of each layer, by name; alike within a block.

    Args:
        model: says which layers stand in one block.
        weights: ``(rows, columns)`` of each layer.
        norms: ``(columns,)`` input norms of each layer.
        sparsity: over all layers.
        outlier: an outlier is this many times the mean score (M, 5 or 7 in the paper).
        spread: how far a sparsity may be from the mean (lambda, 0.08 in the paper).
    """
    grouped = [names for block, names in blocks(model, list(weights)).items() if names != [block]]
    if not grouped:
        return dict.fromkeys(weights, sparsity)
    shares = [
        outlier_share({n: wanda_scores(weights[n], norms[n]) for n in names}, outlier)
        for names in grouped
    ]
    sizes = [sum(weights[name].numel() for name in names) for names in grouped]
    found = spread_out(shares, sizes, sparsity, spread)
    own = {name: s for names, s in zip(grouped, found, strict=True) for name in names}
    # A layer outside of any block, a pooler say, is no block to compare with others.
    return {name: own.get(name, sparsity) for name in weights}
