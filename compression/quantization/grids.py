"""Grids, which are the values that a quantized weight can have, and weights as codes on a grid.

Uniform symmetric, ``b`` bits, with ``q`` from ``-(2^(b-1) - 1)`` to ``2^(b-1) - 1``::

    s = max |w| / (2^(b-1) - 1)        q = round(w / s)              w' = q * s

Uniform affine, with ``q`` from 0 to ``2^b - 1`` and a range that always includes zero::

    s = (max w - min w) / (2^b - 1)    z = round(-min w / s)
    q = round(w / s) + z               w' = (q - z) * s

Powers of two (Miyashita et al. 2016, section 3), with ``q`` as in the symmetric grid::

    s = 2^round(log2 max |w|)          w' = sign(q) * s * 2^(1 - |q|),  0 for q = 0

8-bit floating point, E4M3 (Micikevicius et al. 2022, table 1), with four bits of exponent, three
bits of mantissa and a largest value of 448. ``q`` is the byte of the number::

    s = max |w| / 448                  w' = E4M3(w / s) * s

Every grid contains zero, so pruned weights remain zero. A scale is shared by a group of consecutive
weights of a row, by a row, or by the whole matrix. Scales are rounded to the dtype of the weights
before they are used, so that the stored scales are the ones used in the computation.

Each grid has three functions. ``fit`` returns the scales ``(..., 1)`` of weights ``(..., n)`` and
their zero points, or None. ``encode`` returns the codes of the nearest values as int16, and
``decode`` returns the values of codes in the dtype of the scales; the shapes of their arguments
broadcast.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compression_gates.compression.errors import RecipeError

TINY = 1e-44
"""Lower bound of arguments of a logarithm."""
LARGEST_FLOAT8 = 448.0
"""Largest finite value of E4M3."""


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced values.

    Attributes:
        bits: 2 to 8.
        symmetric: whether the values are symmetric about zero; otherwise every scale has a zero
            point.
    """

    bits: int
    symmetric: bool = True

    @property
    def lowest(self) -> int:
        return -self.highest if self.symmetric else 0

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1

    def fit(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        values = weight.float()
        if self.symmetric:
            scales = values.abs().amax(dim=-1, keepdim=True) / self.highest
            return _storable(scales, self.highest, weight.dtype), None
        low = values.amin(dim=-1, keepdim=True).clamp(max=0.0)
        top = values.amax(dim=-1, keepdim=True).clamp(min=0.0)
        scales = top / self.highest - low / self.highest
        scales = _storable(scales, self.highest, weight.dtype)
        zeros = (-low / scales.float()).round().clamp(0, self.highest)
        scales = _storable(scales, torch.maximum(zeros, self.highest - zeros), weight.dtype)
        return scales, zeros.to(torch.uint8)

    def encode(self, weight: Tensor, scales: Tensor, zeros: Tensor | None) -> Tensor:
        codes = (weight.float() / scales.float()).round_()
        if zeros is not None:
            codes = codes + zeros.float()
        return codes.clamp_(self.lowest, self.highest).to(torch.int16)

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor | None) -> Tensor:
        if zeros is not None:
            codes = codes - zeros.to(codes.dtype)
        return codes.to(scales.dtype) * scales


@dataclass(frozen=True)
class LogGrid:
    """Zero and signed powers of two; ``bits`` is 2 to 8."""

    bits: int

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def lowest(self) -> int:
        return -self.highest

    def fit(self, weight: Tensor) -> tuple[Tensor, None]:
        largest = weight.float().abs().amax(dim=-1, keepdim=True)
        most = math.floor(math.log2(torch.finfo(weight.dtype).max))
        powers = largest.clamp(min=TINY).log2().round().clamp(max=most)
        scales = torch.exp2(powers).to(weight.dtype)
        return torch.where((largest > 0) & (scales > 0), scales, torch.ones_like(scales)), None

    def encode(self, weight: Tensor, scales: Tensor, zeros: None = None) -> Tensor:
        ratio = weight.double().abs() / scales.double()
        # 2^-k is the nearest power from 0.75 * 2^-k to 1.5 * 2^-k.
        exponents = -(ratio / 1.5).clamp(min=TINY).log2().floor() - 1
        exponents = exponents.clamp(min=0, max=self.highest - 1)
        smallest = 2.0 ** (1 - self.highest)
        codes = torch.where(ratio > smallest / 2, exponents + 1, torch.zeros_like(exponents))
        return (codes * weight.float().sign()).to(torch.int16)

    def decode(self, codes: Tensor, scales: Tensor, zeros: None = None) -> Tensor:
        powers = torch.exp2(1.0 - codes.abs().double())
        values = codes.sign().double() * powers * scales.double()
        return values.to(scales.dtype)


@dataclass(frozen=True)
class Float8:
    """8-bit floating point, E4M3."""

    bits = 8
    lowest, highest = -128, 127

    def fit(self, weight: Tensor) -> tuple[Tensor, None]:
        largest = weight.float().abs().amax(dim=-1, keepdim=True)
        return _storable(largest / LARGEST_FLOAT8, LARGEST_FLOAT8, weight.dtype), None

    def encode(self, weight: Tensor, scales: Tensor, zeros: None = None) -> Tensor:
        ratio = (weight.float() / scales.float()).clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8)
        # Encode negative zero as zero.
        ratio = torch.where(ratio == 0, torch.zeros_like(ratio), ratio)
        return ratio.to(torch.float8_e4m3fn).view(torch.int8).to(torch.int16)

    def decode(self, codes: Tensor, scales: Tensor, zeros: None = None) -> Tensor:
        return codes.to(torch.int8).view(torch.float8_e4m3fn).to(scales.dtype) * scales


def _storable(scales: Tensor, largest: float | Tensor, dtype: torch.dtype) -> Tensor:
    """Return scales in ``dtype``, reduced where ``largest * scale`` overflows, and 1 where zero."""
    limits = torch.finfo(dtype)
    scales = scales.to(dtype)
    most = limits.max / torch.as_tensor(largest, dtype=torch.float32, device=scales.device)
    high = scales.float() > most
    scales = torch.where(high, (most * (1 - limits.eps)).to(dtype), scales)
    return torch.where(scales > 0, scales, torch.ones_like(scales))


Grid = Uniform | LogGrid | Float8


@dataclass(frozen=True)
class Quantized:
    """A weight as codes on a grid.

    Attributes:
        grid: the grid.
        codes: ``(rows, columns)``, int16 in memory and ``grid.bits`` bits each on disk.
        scales: ``(rows, groups)``, ``(rows, 1)`` or ``(1, 1)``, in the dtype of the weight.
        zeros: zero points shaped like ``scales``, uint8, or None.
        activations: whether the inputs of the layer are rounded to 8 bits too; see
            :mod:`compression_gates.compression.quantization.activations`.
    """

    grid: Grid
    codes: Tensor
    scales: Tensor
    zeros: Tensor | None = None
    activations: bool = False

    def dequantized(self) -> Tensor:
        """Return the weight ``(rows, columns)`` that the codes represent, in the scales' dtype."""
        groups = self.scales.shape[1]
        codes = self.codes.unflatten(1, (groups, -1))
        zeros = None if self.zeros is None else self.zeros[..., None]
        return self.grid.decode(codes, self.scales[..., None], zeros).flatten(1)


def group_count(columns: int, group: int | None) -> int:
    """Return the number of groups in a row of ``columns`` weights, 1 if ``group`` is None.

    Raises:
        RecipeError: the width is not a multiple of the group size.
    """
    if group is None:
        return 1
    if columns % group:
        raise RecipeError(
            f"group = {group} does not divide an input width of {columns}; exclude the layer or "
            "choose another group size"
        )
    return columns // group


def round_to_nearest(
    weight: Tensor, grid: Grid, group: int | None = None, per_tensor: bool = False
) -> Quantized:
    """Return ``weight`` with every element rounded to the nearest value of the grid.

    Args:
        weight: ``(rows, columns)``, any floating dtype.
        grid: the grid.
        group: number of consecutive weights of a row that share a scale; None for the whole row.
        per_tensor: whether the whole matrix shares one scale; ``group`` is then ignored.

    Raises:
        RecipeError: the width is not a multiple of the group size.
    """
    if per_tensor:
        parts = weight.reshape(1, 1, -1)
    else:
        parts = weight.unflatten(1, (group_count(weight.shape[1], group), -1))
    scales, zeros = grid.fit(parts)
    codes = grid.encode(parts, scales, zeros).view_as(weight)
    return Quantized(grid, codes, scales.squeeze(-1), None if zeros is None else zeros.squeeze(-1))
