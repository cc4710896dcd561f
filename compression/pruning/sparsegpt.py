"""SparseGPT (Frantar & Alistarh 2023, sections 3 and 4, algorithm 1).

Columns are decided from left to right. With ``H = 2 X X^T / tokens`` and ``U`` the upper Cholesky
factor of its inverse, pruning ``w_j`` costs::

    e_j = w_j^2 / U_jj^2

and the error that it leaves is spread over the columns to its right::

    W[:, j:] -= (w_j - q_j) / U_jj * U[j, j:]

Masks are chosen a block of columns at a time (or an N:M group at a time), from weights that
already carry the corrections of all columns before.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compression_gates.compression.calibration.driver import InputStatistics, visit_blocks
from compression_gates.compression.calibration.hessian import DAMPING, inverse_factor, output_error
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import put
from compression_gates.compression.pruning.patterns import NofM, Pattern, lowest, prune_mask
from compression_gates.compression.pruning.wanda import wanda
from compression_gates.compression.recipe import Step

BLOCK = 128
"""Columns whose mask is chosen together (B_s in the paper)."""


def sparsegpt(
    weight: Tensor, hessian: Tensor, pattern: Pattern, block: int = BLOCK, damping: float = DAMPING
) -> Tensor:
    """``weight`` ``(rows, columns)`` pruned, the weights that stay corrected for those that go.

    Args:
        weight: any floating dtype; solved in float32.
        hessian: ``(columns, columns)``, ``2 X X^T`` over calibration tokens, up to a factor.
        pattern: what to prune.
        block: columns whose mask is chosen together; rounded to whole N:M groups.
        damping: share of the mean diagonal that is added to it.
    """
    pattern.check(weight.shape[1])
    rows, columns = weight.shape
    if pattern.expected_zeros(rows, columns, per_row=False) == 0:
        return weight.clone()
    if isinstance(pattern, NofM):
        block = max(block // pattern.m, 1) * pattern.m
    upper = inverse_factor(hessian, damping)
    result = weight.float().clone()
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        part = result[:, start:stop].clone()
        factor = upper[start:stop, start:stop]
        errors = torch.empty_like(part)
        mask = torch.zeros_like(part, dtype=torch.bool)
        if not isinstance(pattern, NofM):
            # Rounding the running total keeps the count exact over all blocks together.
            count = pattern.count(rows * stop) - pattern.count(rows * start)
            costs = (part / factor.diagonal()) ** 2
            mask = lowest(costs.flatten(), count, part.abs().flatten()).view_as(part)
        for j in range(stop - start):
            if isinstance(pattern, NofM) and j % pattern.m == 0:
                group = slice(j, j + pattern.m)
                costs = (part[:, group] / factor.diagonal()[group]) ** 2
                mask[:, group] = pattern.mask(costs, part[:, group].abs())
            kept = part[:, j].masked_fill(mask[:, j], 0.0)
            errors[:, j] = (part[:, j] - kept) / factor[j, j]
            part[:, j + 1 :] -= errors[:, j, None] * factor[j, j + 1 :]
            part[:, j] = kept
        result[:, start:stop] = part
        result[:, stop:] -= errors @ upper[start:stop, stop:]
    return result.to(weight.dtype)


def prune(
    compressed: Compressed,
    layers: Mapping[str, Layer],
    patterns: Mapping[str, Pattern],
    step: Step,
    batches: Sequence[Batch],
) -> None:
    """Prunes ``layers`` in place, block by block on the inputs that the pruned blocks before give.

    An expert that no token reached has no Hessian, and its smallest magnitudes go. So they do where
    that leaves less error: the algorithm is greedy.
    """
    for block in visit_blocks(compressed.model, layers, batches, True, desc=step.name):
        for name, seen in block.items():
            weight, pattern = layers[name].weight.detach(), patterns[name]
            with naming(name):
                after = _least_error(weight, seen, pattern, step["damping"])
            put(name, layers[name], after, pattern, per_row=False, corrected=True)


def _least_error(weight: Tensor, seen: InputStatistics, pattern: Pattern, damping: float) -> Tensor:
    """``weight`` pruned by the algorithm, or by magnitude if the outputs then differ less."""
    if not seen.tokens:
        return wanda(weight, seen.norm, pattern)
    magnitudes = magnitude_scores(weight)
    smallest = weight.masked_fill(prune_mask(magnitudes, pattern, per_row=False), 0.0)
    found = sparsegpt(weight, seen.hessian, pattern, damping=damping)
    errors = [
        output_error(after.float() - weight.float(), seen.hessian).sum()
        for after in (found, smallest)
    ]
    return smallest if errors[1] < errors[0] else found
