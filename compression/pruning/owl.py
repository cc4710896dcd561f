"""Outlier weighed layerwise sparsity, OWL (Yin et al. 2023, section 3.2).

Blocks with more outliers are pruned less. With the scores ``A_ij = |W_ij| * ||X_j||`` of all its
weights, the outlier ratio of block ``l`` is::

    D_l = mean(A > M * mean(A))

The sparsity of a block is ``1 - D_l``, shifted and scaled so that the mean over all weights is the
requested sparsity ``S`` and the block farthest from it differs by ``lambda``. The paper takes the
mean over blocks, which is the same for blocks of equal size. The authors' code scales the range of
sparsities to ``2 lambda`` instead, which exceeds the bounds of the paper where the mean is not the
middle of the range.
"""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import blocks
from compression_gates.compression.pruning.wanda import wanda_scores


def outlier_ratio(scores: Mapping[str, Tensor], outlier: float) -> float:
    """Return ``D``, the fraction of the scores of a block above ``outlier`` times their mean.

    Args:
        scores: of each layer of the block, any shape.
        outlier: ``M``.
    """
    size = sum(score.numel() for score in scores.values())
    mean = sum(float(score.double().sum()) for score in scores.values()) / size
    return sum(int((score > outlier * mean).sum()) for score in scores.values()) / size


def block_sparsities(
    ratios: list[float], sizes: list[int], sparsity: float, spread: float
) -> list[float]:
    """Return a sparsity for each block that falls with the outlier ratio, clipped to 0 to 1.

    Args:
        ratios: ``D`` of each block.
        sizes: number of weights of each block.
        sparsity: ``S``, the mean over all weights.
        spread: ``lambda``, the largest difference from the mean before clipping.
    """
    if max(ratios) == min(ratios):
        return [sparsity] * len(ratios)
    total = sum(sizes)
    mean = sum(ratio * size for ratio, size in zip(ratios, sizes, strict=True)) / total
    farthest = max(abs(ratio - mean) for ratio in ratios)
    sparsities = [sparsity - spread * (ratio - mean) / farthest for ratio in ratios]
    # Clipping changes the mean; the blocks that are not clipped make up for it.
    for _ in range(len(sparsities)):
        clipped = [min(max(value, 0.0), 1.0) for value in sparsities]
        gap = sparsity - sum(v * n for v, n in zip(clipped, sizes, strict=True)) / total
        room = [i for i, v in enumerate(clipped) if (v < 1 if gap > 0 else v > 0)]
        if abs(gap) < 1e-12 or not room:
            return clipped
        shift = gap * total / sum(sizes[i] for i in room)
        sparsities = [v + shift if i in room else v for i, v in enumerate(clipped)]
    return [min(max(value, 0.0), 1.0) for value in sparsities]


def owl_sparsities(
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    norms: Mapping[str, Tensor],
    sparsity: float,
    outlier: float,
    spread: float,
) -> dict[str, float]:
    """Return the sparsity of each layer by name; layers of one block share it.

    A layer outside any block, such as a pooler, gets ``sparsity``.

    Args:
        model: determines which layers form a block.
        weights: ``(rows, columns)`` of each layer.
        norms: ``(columns,)`` L2 norms of the inputs of each layer.
        sparsity: over all layers.
        outlier: ``M``, how many times the mean score makes an outlier; 5 or 7 in the paper.
        spread: ``lambda``, the largest difference from the mean sparsity; 0.08 in the paper.
    """
    grouped = [names for block, names in blocks(model, list(weights)).items() if names != [block]]
    if not grouped:
        return dict.fromkeys(weights, sparsity)
    ratios = [
        outlier_ratio({n: wanda_scores(weights[n], norms[n]) for n in names}, outlier)
        for names in grouped
    ]
    sizes = [sum(weights[name].numel() for name in names) for names in grouped]
    sparsities = dict.fromkeys(weights, sparsity)
    for names, value in zip(
        grouped, block_sparsities(ratios, sizes, sparsity, spread), strict=True
    ):
        sparsities |= dict.fromkeys(names, value)
    return sparsities
