"""GPTQ (Frantar et al. 2023, section 3, algorithm 1).

Columns are rounded from left to right. With ``H = 2 X X^T / tokens`` and ``U`` the upper Cholesky
factor of its inverse, the error that rounding column ``j`` leaves is spread over the columns to
its right::

    W[:, j:] -= (w_j - quant(w_j)) / U_jj * U[j, j:]

With ``act_order`` the columns whose inputs are strongest (largest ``H_jj``) come first; scales of
groups are then those of the weights before any rounding, so that groups stay consecutive.
Weights that are zero beforehand stay zero where ``keep_zeros`` asks for it: a pruned layer keeps
its mask, and the corrections that it was given are passed on.
"""

import torch
from torch import Tensor

from compression_gates.compression.calibration.driver import InputStatistics
from compression_gates.compression.calibration.hessian import DAMPING, inverse_factor, output_error
from compression_gates.compression.quantization.grids import Grid, Quantized, Uniform, groups_of
from compression_gates.compression.quantization.nearest import rtn
from compression_gates.compression.recipe import Step

BLOCK = 128
"""Columns after which corrections reach the rest of the matrix (B in the paper)."""


def quantize(weight: Tensor, step: Step, seen: InputStatistics, keep_zeros: bool) -> Quantized:
    """``weight`` ``(rows, columns)`` as a step asks for it; rounded to nearest where no token
    reached it, or where that leaves less error: the algorithm is greedy."""
    nearest = rtn(weight, step)
    if not seen.tokens:
        return nearest
    grid = Uniform(step["bits"], step["symmetric"])
    found = gptq(
        weight, seen.hessian, grid, step["group"], step["act_order"], keep_zeros, step["damping"]
    )
    errors = [
        output_error(q.dequantized().float() - weight.float(), seen.hessian).sum()
        for q in (found, nearest)
    ]
    return nearest if errors[1] < errors[0] else found


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
    """``weight`` ``(rows, columns)`` on a grid, each rounding made up for by the weights to come.

    Args:
        weight: any floating dtype; solved in float32.
        hessian: ``(columns, columns)``, ``2 X X^T`` over calibration tokens, up to a factor.
        grid: the values.
        group: how many consecutive weights of a row share a scale; None for the whole row.
        act_order: strongest input features first.
        keep_zeros: weights that are zero stay zero.
        damping: share of the mean diagonal that is added to it.
        block: columns that are rounded before the rest is corrected.
    """
    rows, columns = weight.shape
    count = groups_of(columns, group)
    width = columns // count
    scales, zeros = grid.fit(weight.unflatten(1, (count, -1)))
    order = torch.arange(columns, device=weight.device)
    if act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = inverse_factor(hessian[order][:, order], damping)
    left = weight.float()[:, order].clone()
    pruned = left == 0 if keep_zeros else None
    codes = torch.empty(rows, columns, dtype=torch.int16, device=weight.device)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.zeros(rows, stop - start, device=weight.device)
        for j in range(start, stop):
            column = int(order[j])
            index = column // width
            if not act_order and count > 1 and column % width == 0:
                # Corrections of this block have reached the group only up to its end.
                part = left[:, column : column + width].clone()
                if start < j and column + width > stop:
                    part[:, stop - column :] -= (
                        errors[:, : j - start] @ upper[start:j, stop : column + width]
                    )
                if pruned is not None:
                    part.masked_fill_(pruned[:, column : column + width], 0.0)
                fitted, points = grid.fit(part.to(weight.dtype))
                scales[:, index] = fitted
                if points is not None:
                    zeros[:, index] = points
            scale, zero = scales[:, index], None if zeros is None else zeros[:, index]
            values = left[:, j, None]
            if pruned is not None:
                values = values.masked_fill(pruned[:, j, None], 0.0)
            code = grid.encode(values, scale, zero)
            codes[:, column] = code[:, 0]
            error = (left[:, j] - grid.decode(code, scale, zero)[:, 0].float()) / upper[j, j]
            left[:, j:stop] -= error[:, None] * upper[j, j:stop]
            errors[:, j - start] = error
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return Quantized(grid, codes, scales.squeeze(-1), None if zeros is None else zeros.squeeze(-1))
