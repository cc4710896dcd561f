"""Weights as they are written to disk: codes packed bit by bit, and bitmasks with values.

A packed weight takes its bits and its scales; a bitmask takes a bit a weight and the values that
are not zero.
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
    """The tensors of a quantized weight: ``packed`` int32, ``scales`` and maybe ``zeros``."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = quantized.codes.cpu() + _offset(quantized.grid)
    found = {
        "packed": pack_to_int32(codes.to(torch.int8), quantized.grid.bits).contiguous(),
        "scales": quantized.scales.cpu().contiguous(),
    }
    if quantized.zeros is not None:
        found["zeros"] = quantized.zeros.cpu().contiguous()
    return found


def unpack(tensors: Tensors, grid: Grid, columns: int) -> Quantized:
    """The quantized weight of :func:`pack`'s tensors."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    packed = tensors["packed"]
    shape = torch.Size((packed.shape[0], columns))
    codes = unpack_from_int32(packed, grid.bits, shape).to(torch.int16) - _offset(grid)
    return Quantized(grid, codes, tensors["scales"], tensors.get("zeros"))


def packed_shapes(
    grid: Grid, rows: int, columns: int, scales: tuple[int, int]
) -> dict[str, tuple[tuple[int, int], torch.dtype | None]]:
    """Shape and dtype of each of :func:`pack`'s tensors; None is the model's own dtype."""
    found = {
        "packed": ((rows, -(-columns * grid.bits // 32)), torch.int32),
        "scales": (scales, None),
    }
    if isinstance(grid, Uniform) and not grid.symmetric:
        found["zeros"] = (scales, torch.uint8)
    return found


def _offset(grid: Grid) -> int:
    """What moves codes that start at 0 into the signed range that is packed."""
    affine = isinstance(grid, Uniform) and not grid.symmetric
    return -(2 ** (grid.bits - 1)) if affine else 0


def describe_grid(grid: Grid) -> dict[str, object]:
    """A grid as JSON."""
    if isinstance(grid, LogGrid):
        return {"grid": "log", "bits": grid.bits}
    if isinstance(grid, Float8):
        return {"grid": "float8"}
    return {"grid": "uniform", "bits": grid.bits, "symmetric": grid.symmetric}


def grid_of(description: dict[str, object]) -> Grid:
    """The grid of :func:`describe_grid`'s JSON."""
    if description["grid"] == "log":
        return LogGrid(int(description["bits"]))
    if description["grid"] == "float8":
        return Float8()
    return Uniform(int(description["bits"]), bool(description["symmetric"]))


def to_bitmask(weight: Tensor) -> Tensors:
    """The tensors of a sparse weight of any shape: ``bitmask`` uint8, eight weights a byte
    with the first in the lowest bit, and ``values``, what is not zero, row after row."""
    flat = weight.detach().cpu().flatten()
    kept = flat != 0
    padded = torch.zeros(-(-len(flat) // 8) * 8, dtype=torch.uint8)
    padded[: len(flat)] = kept
    weights = 1 << torch.arange(8, dtype=torch.uint8)
    bitmask = (padded.view(-1, 8) * weights).sum(dim=1, dtype=torch.uint8)
    return {"bitmask": bitmask, "values": flat[kept].contiguous()}


def bits_of(bitmask: Tensor) -> Tensor:
    """The bits of bytes, the lowest of each first, as uint8."""
    places = torch.arange(8, dtype=torch.uint8, device=bitmask.device)
    return ((bitmask[:, None] >> places) & 1).flatten()


def from_bitmask(tensors: Tensors, shape: Sequence[int]) -> Tensor:
    """The weight of :func:`to_bitmask`'s tensors."""
    bitmask, values = tensors["bitmask"], tensors["values"]
    kept = bits_of(bitmask)[: math.prod(shape)].bool()
    weight = torch.zeros(len(kept), dtype=values.dtype, device=values.device)
    weight[kept] = values
    return weight.view(*shape)
