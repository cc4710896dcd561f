"""Encode weights for storage: packed codes of quantized weights, and bitmasks of sparse weights.

A packed weight takes the bits of its codes, plus its scales and zero points. A sparse weight takes
one bit per weight, plus its nonzero values.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compression_gates.compression.quantization.grids import (
    Float8,
    Grid,
    LogGrid,
    Quantized,
    Uniform,
)

Tensors = dict[str, Tensor]


def pack(quantized: Quantized) -> Tensors:
    """Return the tensors of a quantized weight: ``packed``, ``scales`` and optionally ``zeros``."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = quantized.codes.cpu() + _offset(quantized.grid)
    tensors = {
        "packed": pack_to_int32(codes.to(torch.int8), quantized.grid.bits).contiguous(),
        "scales": quantized.scales.cpu().contiguous(),
    }
    if quantized.zeros is not None:
        tensors["zeros"] = quantized.zeros.cpu().contiguous()
    return tensors


def unpack(tensors: Tensors, grid: Grid, columns: int) -> Quantized:
    """Return the quantized weight of the tensors from :func:`pack`."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    packed = tensors["packed"]
    shape = torch.Size((packed.shape[0], columns))
    codes = unpack_from_int32(packed, grid.bits, shape).to(torch.int16) - _offset(grid)
    return Quantized(grid, codes, tensors["scales"], tensors.get("zeros"))


def packed_shapes(
    grid: Grid, rows: int, columns: int, scales: tuple[int, int]
) -> dict[str, tuple[tuple[int, int], torch.dtype | None]]:
    """Return shape and dtype of the tensors from :func:`pack`; None is the model's dtype."""
    shapes = {
        "packed": ((rows, -(-columns * grid.bits // 32)), torch.int32),
        "scales": (scales, None),
    }
    if isinstance(grid, Uniform) and not grid.symmetric:
        shapes["zeros"] = (scales, torch.uint8)
    return shapes


def _offset(grid: Grid) -> int:
    """Return the offset that converts codes to the signed range that is packed."""
    affine = isinstance(grid, Uniform) and not grid.symmetric
    return -(2 ** (grid.bits - 1)) if affine else 0


def describe_grid(grid: Grid) -> dict[str, object]:
    """Describe a grid in JSON."""
    if isinstance(grid, LogGrid):
        return {"grid": "log", "bits": grid.bits}
    if isinstance(grid, Float8):
        return {"grid": "float8"}
    return {"grid": "uniform", "bits": grid.bits, "symmetric": grid.symmetric}


def grid_of(description: dict[str, object]) -> Grid:
    """Return the grid of a description from :func:`describe_grid`."""
    if description["grid"] == "log":
        return LogGrid(int(description["bits"]))
    if description["grid"] == "float8":
        return Float8()
    return Uniform(int(description["bits"]), bool(description["symmetric"]))


def to_bitmask(weight: Tensor) -> Tensors:
    """Return the tensors of a sparse weight of any shape.

    ``bitmask`` is uint8, with eight weights per byte, the first in the lowest bit; ``values`` are
    the nonzero weights in row-major order.
    """
    flat = weight.detach().cpu().flatten()
    kept = flat != 0
    padded = torch.zeros(-(-len(flat) // 8) * 8, dtype=torch.uint8)
    padded[: len(flat)] = kept
    weights = 1 << torch.arange(8, dtype=torch.uint8)
    bitmask = (padded.view(-1, 8) * weights).sum(dim=1, dtype=torch.uint8)
    return {"bitmask": bitmask, "values": flat[kept].contiguous()}


def bits_of(bitmask: Tensor) -> Tensor:
    """Return the bits of bytes as uint8, the lowest bit of each byte first."""
    places = torch.arange(8, dtype=torch.uint8, device=bitmask.device)
    return ((bitmask[:, None] >> places) & 1).flatten()


def from_bitmask(tensors: Tensors, shape: Sequence[int]) -> Tensor:
    """Return the weight of the tensors from :func:`to_bitmask`."""
    bitmask, values = tensors["bitmask"], tensors["values"]
    kept = bits_of(bitmask)[: math.prod(shape)].bool()
    weight = torch.zeros(len(kept), dtype=values.dtype, device=values.device)
    weight[kept] = values
    return weight.view(*shape)
