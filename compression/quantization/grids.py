"""Grids: the values that a quantized weight may take, and weights as codes on them.

Uniform symmetric, ``b`` bits, with ``q`` from ``-(2^(b-1) - 1)`` to ``2^(b-1) - 1``::

    s = max |w| / (2^(b-1) - 1)        q = round(w / s)              w' = q * s

Uniform affine, with ``q`` from 0 to ``2^b - 1``; the range always includes zero::

    s = (max w - min w) / (2^b - 1)    z = round(-min w / s)
    q = round(w / s) + z               w' = (q - z) * s

Powers of two (Miyashita et al. 2016, section 3), with ``q`` from ``-(2^(b-1) - 1)`` on::

    s = 2^round(log2 max |w|)          w' = sign(q) * s * 2^(1 - |q|),  0 for q = 0

Floating point of eight bits, E4M3 (Micikevicius et al. 2022, table 1): four bits of exponent,
three of mantissa, up to 448, and ``q`` is the number's byte::

    s = max |w| / 448                  w' = E4M3(w / s) * s

Every grid holds zero exactly, so pruned weights stay pruned. A scale belongs to a group of
consecutive weights of a row, to a row, or to the whole matrix. Scales are rounded to the dtype of
the weights before they are used, so what is stored is what was computed with.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compression_gates.compression.errors import RecipeError

TINY = 1e-44
"""Stands in for the largest weight where all are zero."""
LARGEST_FLOAT8 = 448.0
"""Of E4M3."""


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced values.

    Attributes:
        bits: 2 to 8.
        symmetric: the same values below zero as above, or a zero point of its own for each scale.
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
        """Scale ``(..., 1)`` and zero point of weights ``(..., n)`` that share one."""
        values = weight.float()
        if self.symmetric:
            scales = values.abs().amax(dim=-1, keepdim=True) / self.highest
        else:
            low = values.amin(dim=-1, keepdim=True).clamp(max=0.0)
            top = values.amax(dim=-1, keepdim=True).clamp(min=0.0)
            scales = top / self.highest - low / self.highest
        scales = _storable(scales, self.highest, weight.dtype)
        if self.symmetric:
            return scales, None
        zeros = (-low / scales.float()).round().clamp(0, self.highest)
        scales = _storable(scales, torch.maximum(zeros, self.highest - zeros), weight.dtype)
        return scales, zeros.to(torch.uint8)

    def encode(self, weight: Tensor, scales: Tensor, zeros: Tensor | None) -> Tensor:
        """The codes of the nearest values, as int16."""
        codes = (weight.float() / scales.float()).round()
        if zeros is not None:
            codes = codes + zeros.float()
        return codes.clamp(self.lowest, self.highest).to(torch.int16)

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor | None) -> Tensor:
        """The values of codes, in the dtype of the scales."""
        if zeros is not None:
            codes = codes - zeros.to(codes.dtype)
        return codes.to(scales.dtype) * scales


@dataclass(frozen=True)
class LogGrid:
    """Powers of two with a sign, and zero; ``bits`` 2 to 8."""

    bits: int

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def lowest(self) -> int:
        return -self.highest

    def fit(self, weight: Tensor) -> tuple[Tensor, None]:
        """Largest power of two ``(..., 1)`` for weights ``(..., n)``."""
        largest = weight.float().abs().amax(dim=-1, keepdim=True)
        most = math.floor(math.log2(torch.finfo(weight.dtype).max))
        powers = largest.clamp(min=TINY).log2().round().clamp(max=most)
        scales = torch.exp2(powers).to(weight.dtype)
        return torch.where((largest > 0) & (scales > 0), scales, torch.ones_like(scales)), None

    def encode(self, weight: Tensor, scales: Tensor, zeros: None = None) -> Tensor:
        """The codes of the nearest values, as int16. Between two powers, the middle decides."""
        share = weight.double().abs() / scales.double()
        # 2^-k is nearest from 0.75 * 2^-k to 1.5 * 2^-k; below half of the smallest it is zero.
        steps = -(share / 1.5).clamp(min=TINY).log2().floor() - 1
        steps = steps.clamp(min=0, max=self.highest - 1)
        smallest = 2.0 ** (1 - self.highest)
        codes = torch.where(share > smallest / 2, steps + 1, torch.zeros_like(steps))
        return (codes * weight.float().sign()).to(torch.int16)

    def decode(self, codes: Tensor, scales: Tensor, zeros: None = None) -> Tensor:
        """The values of codes, in the dtype of the scales."""
        powers = torch.exp2(1.0 - codes.abs().double())
        values = codes.sign().double() * powers * scales.double()
        return values.to(scales.dtype)


@dataclass(frozen=True)
class Float8:
    """Eight bits of floating point, E4M3."""

    bits = 8
    lowest, highest = -128, 127

    def fit(self, weight: Tensor) -> tuple[Tensor, None]:
        """Scale ``(..., 1)`` of weights ``(..., n)`` that share one."""
        largest = weight.float().abs().amax(dim=-1, keepdim=True)
        return _storable(largest / LARGEST_FLOAT8, LARGEST_FLOAT8, weight.dtype), None

    def encode(self, weight: Tensor, scales: Tensor, zeros: None = None) -> Tensor:
        """The bytes of the nearest values, as int16 from -128 to 127."""
        ratio = (weight.float() / scales.float()).clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8)
        # No byte for a zero with a sign.
        ratio = torch.where(ratio == 0, torch.zeros_like(ratio), ratio)
        return ratio.to(torch.float8_e4m3fn).view(torch.int8).to(torch.int16)

    def decode(self, codes: Tensor, scales: Tensor, zeros: None = None) -> Tensor:
        """The values of bytes, in the dtype of the scales."""
        return codes.to(torch.int8).view(torch.float8_e4m3fn).to(scales.dtype) * scales


def _storable(scales: Tensor, reach: float | Tensor, dtype: torch.dtype) -> Tensor:
    """Scales in the dtype of the weights, none of them zero, and ``reach`` of each are finite."""
    kind = torch.finfo(dtype)
    scales = scales.to(dtype)
    # Rounded up, the largest code's value may lie beyond what the dtype can hold.
    most = kind.max / torch.as_tensor(reach, dtype=torch.float32, device=scales.device)
    high = scales.float() > most
    scales = torch.where(high, (most * (1 - kind.eps)).to(dtype), scales)
    return torch.where(scales > 0, scales, torch.ones_like(scales))


Grid = Uniform | LogGrid | Float8


@dataclass(frozen=True)
class Quantized:
    """A weight as codes on a grid.

    Attributes:
        grid: the values.
        codes: ``(rows, columns)``, int16 here and ``grid.bits`` each on disk.
        scales: ``(rows, groups)``, ``(rows, 1)`` or ``(1, 1)``, in the dtype of the weight.
        zeros: zero points like ``scales``, in uint8, or None.
        activations: whether the inputs are rounded too, token by token, to eight bits of the
            weights' kind.
    """

    grid: Grid
    codes: Tensor
    scales: Tensor
    zeros: Tensor | None = None
    activations: bool = False

    def dequantized(self) -> Tensor:
        """The weight ``(rows, columns)`` that the codes stand for, in the dtype of the scales."""
        groups = self.scales.shape[1]
        codes = self.codes.unflatten(1, (groups, -1))
        zeros = None if self.zeros is None else self.zeros[..., None]
        return self.grid.decode(codes, self.scales[..., None], zeros).flatten(1)

    def with_activations(self, activations: bool) -> "Quantized":
        return replace(self, activations=activations)


def groups_of(columns: int, group: int | None) -> int:
    """How many groups of a row share a scale each.

    Raises:
        RecipeError: the width is not a multiple of the group.
    """
    if group is None:
        return 1
    if columns % group:
        raise RecipeError(
            f"group = {group} does not divide an input width of {columns}; exclude the layer or "
            "choose another group"
        )
    return columns // group


def round_to_nearest(
    weight: Tensor, grid: Grid, group: int | None = None, per_tensor: bool = False
) -> Quantized:
    """``weight`` ``(rows, columns)`` with every entry at the nearest value of its grid.

    Args:
        weight: any floating dtype.
        grid: the values.
        group: how many consecutive weights of a row share a scale; None for the whole row.
        per_tensor: one scale for the whole matrix instead.
    """
    if per_tensor:
        scales, zeros = grid.fit(weight.reshape(1, -1))
        return Quantized(grid, grid.encode(weight, scales, zeros), scales, zeros)
    parts = weight.unflatten(1, (groups_of(weight.shape[1], group), -1))
    scales, zeros = grid.fit(parts)
    codes = grid.encode(parts, scales, zeros).flatten(1)
    return Quantized(grid, codes, scales.squeeze(-1), None if zeros is None else zeros.squeeze(-1))
