"""SparseGPT (Frantar & Alistarh 2023, sections 3 and 4, algorithm 1).

Columns are processed from left to right. With ``H = 2 X X^T / tokens`` and ``U`` the upper
Cholesky factor of its inverse, pruning ``w_j`` increases the output error by::

    e_j = w_j^2 / U_jj^2

The error of column ``j``, with ``q_j`` its pruned weights, is compensated by updating the columns
to its right::

    W[:, j:] -= (w_j - q_j) / U_jj * U[j, j:]

The mask is chosen for one block of columns, or for one N:M group, at a time, from weights that
include the updates of all earlier columns.
"""

import torch
from torch import Tensor

from compression_gates.compression.calibration.hessian import (
    DAMPING,
    error_difference,
    inverse_factor,
)
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.errors import naming
from compression_gates.compression.kernels import usable
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import (
    PruningTask,
    calibrated_layers,
    write_pruned,
)
from compression_gates.compression.pruning.patterns import (
    NofM,
    Pattern,
    Unstructured,
    lowest_mask,
    prune_mask,
)
from compression_gates.compression.pruning.wanda import wanda

BLOCK = 128
"""Number of columns whose mask is chosen together (B_s in the paper)."""


def sparsegpt(
    weight: Tensor,
    hessian: Tensor,
    pattern: Pattern,
    block: int = BLOCK,
    damping: float = DAMPING,
    upper: Tensor | None = None,
) -> Tensor:
    """Return ``weight`` pruned, with the remaining weights updated to compensate.

    Args:
        weight: ``(rows, columns)``, any floating dtype; the computation is in float32.
        hessian: ``(columns, columns)``, ``2 X X^T`` over the calibration tokens, up to a factor.
        pattern: how many weights to prune.
        block: number of columns whose mask is chosen together; rounded down to whole N:M groups.
        damping: added to the diagonal of the Hessian, as a fraction of its mean.
        upper: the factor of the inverse Hessian, if it is already computed.

    Raises:
        RecipeError: the pattern does not fit the number of columns.
        CompressionError: the Hessian is zero or cannot be factorized.
    """
    pattern.check(weight.shape[1])
    rows, columns = weight.shape
    if pattern.expected_zeros(rows, columns, per_row=False) == 0:
        return weight.clone()
    if isinstance(pattern, NofM):
        block = max(block // pattern.m, 1) * pattern.m
    upper = inverse_factor(hessian, damping) if upper is None else upper
    prune_block = prune_columns
    if usable(weight.device):
        from compression_gates.compression.pruning.sparsegpt_kernel import prune_columns as kernel

        prune_block = kernel
    # Transposed, so that the weights of a column are contiguous.
    result = weight.float().T.clone(memory_format=torch.contiguous_format)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        part, factor = result[start:stop], upper[start:stop, start:stop]
        pruned = pattern
        if isinstance(pattern, Unstructured):
            # Rounding the running total keeps the count over all blocks exact.
            count = pattern.count(rows * stop) - pattern.count(rows * start)
            pruned = cheapest(part, factor.diagonal(), count, (1, -1))
        errors = prune_block(part, factor, pruned)
        result[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return result.T.to(weight.dtype, memory_format=torch.contiguous_format)


def cheapest(part: Tensor, pivots: Tensor, count: int, compared: tuple[int, int]) -> Tensor:
    """Return the mask of the weights whose pruning increases the output error least.

    Args:
        part: ``(columns, rows)``.
        pivots: ``(columns,)``, the diagonal of the factor.
        count: number of weights to prune in each comparison group.
        compared: shape of the comparison groups of ``(rows, columns)``.
    """
    costs = (part / pivots[:, None]).square().T.reshape(compared)
    magnitudes = part.abs().T.reshape(compared)
    return lowest_mask(costs, count, magnitudes).view(part.T.shape).T


def prune_columns(part: Tensor, factor: Tensor, pruned: Tensor | NofM) -> Tensor:
    """Prune a block of columns in place and return their errors ``(columns, rows)``.

    Args:
        part: ``(columns, rows)``.
        factor: ``(columns, columns)``, the factor of the inverse Hessian.
        pruned: the mask ``(columns, rows)``, or a pattern whose masks are chosen group by group.
    """
    columns, rows = part.shape
    pivots = factor.diagonal()
    width = pruned.m if isinstance(pruned, NofM) else columns
    divisors, errors = torch.empty_like(part), torch.empty_like(part)
    for j in range(columns):
        if j % width == 0:
            group = slice(j, j + width)
            mask = pruned
            if isinstance(pruned, NofM):
                mask = cheapest(part[group], pivots[group], width - pruned.n, (rows, -1))
            # Dividing by infinity leaves an error of zero for a weight that is kept.
            divisors[group] = torch.where(mask, pivots[group, None], torch.inf)
        torch.div(part[j], divisors[j], out=errors[j])
        part[j + 1 :].addmm_(factor[j, j + 1 :, None], errors[j, None], alpha=-1)
    part.masked_fill_(divisors.isfinite(), 0.0)
    return errors


def prune(task: PruningTask) -> None:
    """Prune the layers of a task in place, on the outputs of the earlier pruned blocks.

    The algorithm is greedy, so a layer is pruned by magnitude where that leaves a smaller output
    error. An expert without calibration tokens has no Hessian and is pruned by magnitude too.

    Raises:
        CompressionError: the calibration failed, a Hessian cannot be factorized, or a result is not
            as requested.
    """
    for name, layer, moments in calibrated_layers(task, with_products=True):
        weight, pattern = layer.weight.detach(), task.patterns[name]
        with naming(name):
            after = _least_error(weight, moments, pattern, task.step["damping"])
        write_pruned(name, layer, after, pattern, per_row=False, corrected=True)


def _least_error(
    weight: Tensor, moments: InputStatistics, pattern: Pattern, damping: float
) -> Tensor:
    """Return ``weight`` pruned by SparseGPT or by magnitude, whichever has less output error."""
    if not moments.tokens or not pattern.expected_zeros(*weight.shape, per_row=False):
        return wanda(weight, moments.norm, pattern)
    hessian, upper = moments.hessian, moments.inverse_factor(damping)
    solved = sparsegpt(weight, hessian, pattern, upper=upper)
    mask = prune_mask(magnitude_scores(weight), pattern, per_row=False)
    masked = weight.masked_fill(mask, 0.0)
    before = weight.float()
    larger = error_difference(solved - before, masked - before, hessian) > 0
    return masked if larger else solved
