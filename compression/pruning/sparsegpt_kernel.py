"""Triton kernel of SparseGPT's loop over a block of columns.

It computes the same as :func:`compression_gates.compression.pruning.sparsegpt.prune_columns`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from compression_gates.compression.kernels import launch
from compression_gates.compression.pruning.patterns import NofM


def prune_columns(block: Tensor, factor: Tensor, pruned: Tensor | NofM) -> Tensor:
    """Prune a block of columns in place and return the errors, as without the kernel."""
    errors = torch.empty_like(block)
    if isinstance(pruned, NofM):
        group, count, mask = pruned.m, pruned.m - pruned.n, block
    else:
        group, count, mask = 0, 0, pruned.contiguous().view(torch.int8)
    launch(prune_tile, block, factor.contiguous(), mask, errors, GROUP=group, COUNT=count)
    return errors


@triton.jit
def prune_tile(
    block, factor, mask, errors, rows,
    GROUP: tl.constexpr, COUNT: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[None, :]
    column = tl.arange(0, PADDED)[:, None]
    inside = (row < rows) & (column < COLUMNS)
    weights = tl.load(block + column * rows + row, mask=inside, other=0.0)
    if GROUP:
        pruned = weights != weights
        pivots = tl.load(factor + column * (COLUMNS + 1), mask=column < COLUMNS, other=1.0)
    else:
        pruned = tl.load(mask + column * rows + row, mask=inside, other=0) != 0
    for j in range(COLUMNS):
        if GROUP:  # noqa: SIM102 - a constant, by which the kernel is specialized
            if j % GROUP == 0:
                members = (column >= j) & (column < j + GROUP)
                ranks = _ranks(weights, pivots, column, j, GROUP)
                pruned = tl.where(members, ranks < COUNT, pruned)
        current = column == j
        weight = tl.sum(tl.where(current & pruned, weights, 0.0), axis=0)
        error = tl.div_rn(weight, tl.load(factor + j * (COLUMNS + 1)))[None, :]
        tl.store(errors + j * rows + row, error, mask=row < rows)
        later = (column > j) & (column < COLUMNS)
        weights -= tl.load(factor + j * COLUMNS + column, mask=later, other=0.0) * error
    tl.store(block + column * rows + row, tl.where(pruned, 0.0, weights), mask=inside)


@triton.jit
def _ranks(weights, pivots, column, start, GROUP: tl.constexpr):
    """Return for each weight the number of members of a group that are pruned before it."""
    costs = tl.div_rn(weights, tl.broadcast_to(pivots, weights.shape))
    costs *= costs
    magnitudes = tl.abs(weights)
    ranks = tl.zeros(weights.shape, tl.int32)
    for k in range(GROUP):
        member = column == start + k
        cost = tl.sum(tl.where(member, costs, 0.0), axis=0)[None, :]
        magnitude = tl.sum(tl.where(member, magnitudes, 0.0), axis=0)[None, :]
        tie = (magnitude < magnitudes) | ((magnitude == magnitudes) & (start + k < column))
        ranks += ((cost < costs) | ((cost == costs) & tie)).to(tl.int32)
    return ranks
