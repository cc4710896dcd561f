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

import math

import torch
from torch import Tensor

from compression_gates.compression.calibration.hessian import DAMPING, inverse_factor, output_error
from compression_gates.compression.calibration.statistics import InputStatistics
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
    hessian = moments.hessian
    grid = Uniform(step["bits"], step["symmetric"])
    solved = gptq(
        weight, hessian, grid, step["group"], step["act_order"], keep_zeros, step["damping"]
    )

    def error(quantized: Quantized) -> Tensor:
        return output_error(quantized.dequantized().float() - weight.float(), hessian).sum()

    return min(solved, nearest, key=error)


def gptq(
    weight: Tensor,
    hessian: Tensor,
    grid: Grid,
    group: int | None = None,
    act_order: bool = False,
    keep_zeros: bool = False,
    damping: float = DAMPING,
    block: int = BLOCK,
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
        block: number of columns that are rounded before the rest is updated; reduced so that
            blocks are whole groups, or groups whole blocks, where groups are fitted on the way.

    Raises:
        RecipeError: the width is not a multiple of the group size.
        CompressionError: the Hessian is zero or cannot be factorized.
    """
    rows, columns = weight.shape
    count = group_count(columns, group)
    width = columns // count
    fitted_in_order = count > 1 and not act_order
    if fitted_in_order:
        # No update of a group is then pending when its scales are fitted.
        block = block // width * width or math.gcd(block, width)
    scales, zeros = grid.fit(weight.unflatten(1, (count, -1)))
    order = torch.arange(columns, device=weight.device)
    if act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
        hessian = hessian[order][:, order]
    upper = inverse_factor(hessian, damping)
    # Transposed, so that the weights of a column are contiguous.
    updated = weight.float().T[order].contiguous()
    pruned = updated == 0 if keep_zeros else None
    codes = torch.empty(columns, rows, dtype=torch.int16, device=weight.device)
    positions = order.tolist()
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.empty_like(updated[start:stop])
        for j in range(start, stop):
            group = positions[j] // width
            if fitted_in_order and j % width == 0:
                part = updated[j : j + width]
                if pruned is not None:
                    part = part.masked_fill(pruned[j : j + width], 0.0)
                scales[:, group], fitted_zeros = grid.fit(part.T.to(weight.dtype))
                if zeros is not None:
                    zeros[:, group] = fitted_zeros
            scale, zero = scales[:, group, 0], None if zeros is None else zeros[:, group, 0]
            values = updated[j] if pruned is None else updated[j].masked_fill(pruned[j], 0.0)
            code = codes[positions[j]] = grid.encode(values, scale, zero)
            error = errors[j - start]
            torch.sub(updated[j], grid.decode(code, scale, zero), out=error).div_(upper[j, j])
            updated[j + 1 : stop].addmm_(upper[j, j + 1 : stop, None], error[None], alpha=-1)
        updated[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    codes = codes.T.contiguous()
    return Quantized(grid, codes, scales.squeeze(-1), None if zeros is None else zeros.squeeze(-1))
