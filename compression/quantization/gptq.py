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
        block: number of columns that are rounded before the rest is updated.

    Raises:
        RecipeError: the width is not a multiple of the group size.
        CompressionError: the Hessian is zero or cannot be factorized.
    """
    rows, columns = weight.shape
    count = group_count(columns, group)
    width = columns // count
    scales, zeros = grid.fit(weight.unflatten(1, (count, -1)))
    order = torch.arange(columns, device=weight.device)
    if act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = inverse_factor(hessian[order][:, order], damping)
    updated = weight.float()[:, order].clone()
    pruned = updated == 0 if keep_zeros else None
    codes = torch.empty(rows, columns, dtype=torch.int16, device=weight.device)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.zeros(rows, stop - start, device=weight.device)
        for j in range(start, stop):
            column = int(order[j])
            index = column // width
            if not act_order and count > 1 and column % width == 0:
                # The updates of this block have not been applied beyond its last column yet.
                part = updated[:, column : column + width].clone()
                if start < j and column + width > stop:
                    part[:, stop - column :] -= (
                        errors[:, : j - start] @ upper[start:j, stop : column + width]
                    )
                if pruned is not None:
                    part.masked_fill_(pruned[:, column : column + width], 0.0)
                group_scales, group_zeros = grid.fit(part.to(weight.dtype))
                scales[:, index] = group_scales
                if group_zeros is not None:
                    zeros[:, index] = group_zeros
            scale, zero = scales[:, index], None if zeros is None else zeros[:, index]
            values = updated[:, j, None]
            if pruned is not None:
                values = values.masked_fill(pruned[:, j, None], 0.0)
            code = grid.encode(values, scale, zero)
            codes[:, column] = code[:, 0]
            error = (updated[:, j] - grid.decode(code, scale, zero)[:, 0].float()) / upper[j, j]
            updated[:, j:stop] -= error[:, None] * upper[j, j:stop]
            errors[:, j - start] = error
        updated[:, stop:] -= errors @ upper[start:stop, stop:]
    return Quantized(grid, codes, scales.squeeze(-1), None if zeros is None else zeros.squeeze(-1))
