"""GPTQ (Frantar et al. 2023, section 3, algorithm 1).

Columns are rounded from left to right. With ``H = 2 X X^T / tokens`` and ``U`` the upper Cholesky
factor of its inverse, the rounding error of column ``j`` is compensated by updating the columns to
its right::

    W[:, j:] -= (w_j - quant(w_j)) / U_jj * U[j, j:]

With ``act_order``, columns are processed in the order of decreasing ``H_jj``. The scales of groups
are then fitted to the original weights, so that groups remain consecutive. With ``keep_zeros``,
weights that are zero remain zero, which preserves the mask of a pruned layer. The updates that such
a weight received count as its rounding error.
"""

import torch
from torch import Tensor

from compression_gates.compression.calibration.hessian import (
    DAMPING,
    decreasing_diagonal,
    error_difference,
    inverse_factor,
)
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.kernels import usable
from compression_gates.compression.quantization.grids import Grid, Quantized, Uniform, group_count
from compression_gates.compression.quantization.nearest import rtn
from compression_gates.compression.recipe import Step

BLOCK = 128
"""Number of columns after which the rest of the matrix is updated (B in the paper)."""


def quantize(weight: Tensor, step: Step, moments: InputStatistics, keep_zeros: bool) -> Quantized:
    """Return ``weight`` ``(rows, columns)`` quantized with the step's settings.

    The algorithm is greedy, so the result is rounded to nearest where that leaves a smaller output
    error, and also where no token reached the layer.

    Raises:
        RecipeError: the width is not a multiple of the group size.
        CompressionError: the Hessian cannot be factorized.
    """
    nearest = rtn(weight, step)
    if not moments.tokens:
        return nearest
    act_order, damping = step["act_order"], step["damping"]
    hessian, upper = moments.hessian, moments.inverse_factor(damping, act_order)
    grid = Uniform(step["bits"], step["symmetric"])
    solved = gptq(weight, hessian, grid, step["group"], act_order, keep_zeros, upper=upper)
    before = weight.float()
    differences = (quantized.dequantized() - before for quantized in (solved, nearest))
    return nearest if error_difference(*differences, hessian) > 0 else solved


def gptq(
    weight: Tensor,
    hessian: Tensor,
    grid: Grid,
    group: int | None = None,
    act_order: bool = False,
    keep_zeros: bool = False,
    damping: float = DAMPING,
    block: int = BLOCK,
    upper: Tensor | None = None,
) -> Quantized:
    """Return ``weight`` on a grid, with each rounding error compensated by later columns.

    Args:
        weight: ``(rows, columns)``, any floating dtype; the computation is in float32.
        hessian: ``(columns, columns)``, ``2 X X^T`` over the calibration tokens, up to a factor.
        grid: the grid.
        group: number of consecutive weights of a row that share a scale; None for the whole row.
        act_order: whether columns are processed in the order of decreasing ``H_jj``.
        keep_zeros: whether weights that are zero remain zero.
        damping: added to the diagonal of the Hessian, as a fraction of its mean.
        block: number of columns that are rounded before the rest is updated. A block also ends
            with a group whose scales are fitted on the way.
        upper: the factor of the inverse Hessian, in the order in which columns are processed, if
            it is already computed.

    Raises:
        RecipeError: the width is not a multiple of the group size.
        CompressionError: the Hessian is zero or cannot be factorized.
    """
    rows, columns = weight.shape
    count = group_count(columns, group)
    width = columns // count
    fitted_in_order = count > 1 and not act_order
    scales, zeros = grid.fit(weight.unflatten(1, (count, -1)))
    order = torch.arange(columns, device=weight.device)
    if act_order:
        order = decreasing_diagonal(hessian)
    if upper is None:
        upper = inverse_factor(hessian[order][:, order], damping)
    round_block = round_columns
    if usable(weight.device):
        from compression_gates.compression.quantization.gptq_kernel import round_columns as kernel

        round_block = kernel
    # Transposed, so that the weights of a column are contiguous.
    updated = weight.float().T[order].contiguous()
    pruned = updated == 0 if keep_zeros else None
    codes = torch.empty(columns, rows, dtype=torch.int16, device=weight.device)
    # No update of a group is pending when its scales are fitted.
    limit = width if fitted_in_order else columns
    blocks = [
        (start, min(start + block, first + limit))
        for first in range(0, columns, limit)
        for start in range(first, first + limit, block)
    ]
    for start, stop in blocks:
        if fitted_in_order and start % width == 0:
            group = slice(start, start + width)
            part = updated[group]
            if keep_zeros:
                part = part.masked_fill(pruned[group], 0.0)
            scales[:, start // width], fitted_zeros = grid.fit(part.T.to(weight.dtype))
            if zeros is not None:
                zeros[:, start // width] = fitted_zeros
        groups = order[start:stop] // width
        codes[order[start:stop]], errors = round_block(
            updated[start:stop],
            upper[start:stop, start:stop],
            grid,
            scales[:, groups, 0].T.contiguous(),
            None if zeros is None else zeros[:, groups, 0].T.contiguous(),
            pruned[start:stop] if keep_zeros else None,
        )
        updated[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    codes = codes.T.contiguous()
    return Quantized(grid, codes, scales.squeeze(-1), None if zeros is None else zeros.squeeze(-1))


def round_columns(
    part: Tensor,
    factor: Tensor,
    grid: Grid,
    scales: Tensor,
    zeros: Tensor | None,
    pruned: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the codes and the errors ``(columns, rows)`` of a block of columns.

    Args:
        part: ``(columns, rows)``; its contents are undefined afterwards.
        factor: ``(columns, columns)``, the factor of the inverse Hessian.
        grid: the grid.
        scales: ``(columns, rows)``.
        zeros: zero points ``(columns, rows)``, or None.
        pruned: mask ``(columns, rows)`` of the weights that remain zero, or None.
    """
    codes = torch.empty_like(part, dtype=torch.int16)
    errors = torch.empty_like(part)
    for j, (weights, scale, error) in enumerate(zip(part, scales, errors, strict=True)):
        zero = None if zeros is None else zeros[j]
        values = weights if pruned is None else weights.masked_fill(pruned[j], 0.0)
        code = codes[j] = grid.encode(values, scale, zero)
        torch.sub(weights, grid.decode(code, scale, zero), out=error).div_(factor[j, j])
        part[j + 1 :].addmm_(factor[j, j + 1 :, None], error[None], alpha=-1)
    return codes, errors
