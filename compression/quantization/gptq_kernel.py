"""Triton kernel of GPTQ's loop over a block of columns.

It computes the same as :func:`compression_gates.compression.quantization.gptq.round_columns`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from compression_gates.compression.kernels import launch
from compression_gates.compression.quantization.grid_kernels import decode, encode
from compression_gates.compression.quantization.grids import Grid


def round_columns(
    block: Tensor,
    factor: Tensor,
    grid: Grid,
    scales: Tensor,
    zeros: Tensor | None,
    pruned: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the codes and the errors of a block of columns, as without the kernel."""
    codes = torch.empty_like(block, dtype=torch.int16)
    errors = torch.empty_like(block)
    launch(
        round_tile,
        block,
        factor.contiguous(),
        scales.contiguous(),
        scales if zeros is None else zeros.contiguous(),
        block if pruned is None else pruned.contiguous().view(torch.int8),
        codes,
        errors,
        GRID=type(grid).__name__,
        LOWEST=grid.lowest,
        HIGHEST=grid.highest,
        AFFINE=zeros is not None,
        PRUNED=pruned is not None,
    )
    return codes, errors


@triton.jit
def round_tile(
    block, factor, scales, zeros, mask, codes, errors, rows,
    GRID: tl.constexpr, LOWEST: tl.constexpr, HIGHEST: tl.constexpr, AFFINE: tl.constexpr,
    PRUNED: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)[:, None]
    exists = row < rows
    inside = exists[None, :] & (column < COLUMNS)
    weights = tl.load(block + column * rows + row[None, :], mask=inside, other=0.0)
    for j in range(COLUMNS):
        weight = tl.sum(tl.where(column == j, weights, 0.0), axis=0)
        place = j * rows + row
        value = weight
        if PRUNED:
            value = tl.where(tl.load(mask + place, mask=exists, other=0) != 0, 0.0, weight)
        stored = tl.load(scales + place, mask=exists, other=1.0)
        scale, zero = stored.to(tl.float32), tl.zeros_like(weight)
        if AFFINE:
            zero = tl.load(zeros + place, mask=exists, other=0).to(tl.float32)
        code = encode(value, scale, zero, GRID, LOWEST, HIGHEST)
        tl.store(codes + place, code.to(tl.int16), mask=exists)
        rounded = decode(code, scale, zero, GRID).to(stored.dtype).to(tl.float32)
        error = tl.div_rn(weight - rounded, tl.load(factor + j * (COLUMNS + 1)))
        tl.store(errors + place, error, mask=exists)
        later = (column > j) & (column < COLUMNS)
        weights -= tl.load(factor + j * COLUMNS + column, mask=later, other=0.0) * error[None, :]
