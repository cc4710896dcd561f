"""Round to nearest on a uniform symmetric grid, a scale per output channel.

::

    s_i = max_j |W_ij| / (2^(b-1) - 1)        q_ij = round(W_ij / s_i)        W'_ij = q_ij * s_i

The grid is symmetric and holds zero, so pruned weights stay zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rounded:
    """Integers ``(rows, columns)`` in int8, scales ``(rows, 1)``, and the bits that hold them."""

    integers: Tensor
    scales: Tensor
    bits: int

    def dequantized(self) -> Tensor:
        """The weights that the integers stand for, in the dtype of the scales."""
        return self.integers.to(self.scales.dtype) * self.scales


def round_to_nearest(weight: Tensor, bits: int = 8) -> Rounded:
    """``weight`` ``(rows, columns)`` on a grid of ``2^bits - 1`` levels a row.

    Scales are rounded to the dtype of ``weight`` before they are used, so that what is stored
    is what was computed with. A row of zeros gets the scale 1.
    """
    highest = 2 ** (bits - 1) - 1
    scales = (weight.float().abs().amax(dim=1, keepdim=True) / highest).to(weight.dtype)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    integers = (weight.float() / scales.float()).round().clamp(-highest, highest)
    return Rounded(integers.to(torch.int8), scales, bits)
