"""Recognize quantized weights by their values, where no configuration describes them.

The values of a group on a uniform grid are integer multiples of the group's scale. The scale is the
smallest distance between two values or a part of it, refined by least squares::

    s = min_{w_i != w_j} |w_i - w_j|      q_i = round(w_i / s)      s' = sum w q / sum q^2

The group is on the grid if every ``|w - s' q|`` is within rounding error of the dtype, and the
codes ``q`` span at most 8 bits. Zero has the code zero on every grid.
"""

import torch
from torch import Tensor

from compression_gates.compression.quantization.grids import Float8, round_to_nearest

GROUPS = (256, 128, 64, 32, 16)
"""Group sizes that are tried, if the whole matrix and whole rows share no scale."""
ROWS = 64
"""Largest number of rows that are examined."""
DIVISORS = (1, 2, 3)
"""The smallest distance in a group may be this many scales, if no two weights have adjacent
codes."""
SHARE_ON_GRID = 0.99
"""Share of the groups that must be on the grid."""
MIN_VALUES = 8
"""Number of nonzero weights below which a group is too small to show a grid."""
MOST_LEVELS = 255
MIN_BITS, MAX_BITS = 2, 8
MAX_HALF_BITS = 4
"""Largest number of bits of a grid in dtypes of 16 bits, whose rounding hides the scale of finer
grids."""
MIN_USED = 0.9
"""Share of the codes between a quarter and half of the largest that must occur, if there are
:data:`MANY` weights for each. Grids of floating-point numbers leave gaps there, and pruning leaves
them at smaller codes."""
MANY = 32


def quantization_of_values(weight: Tensor) -> str:
    """Return the step of a recipe that rounds to the grid of a weight; empty if there is none.

    In dtypes of 16 bits, only grids of up to 4 bits are recognized.

    Args:
        weight: ``(out, in)``, any floating dtype.
    """
    rows, columns = weight.shape
    max_bits = MAX_HALF_BITS if torch.finfo(weight.dtype).eps > 1e-4 else MAX_BITS
    sample = weight[:: max(rows // ROWS, 1)][:ROWS].detach()
    groups = [size for size in GROUPS if size < columns and not columns % size]
    for setting, parts in (
        (",scale=tensor", sample.reshape(1, -1)),
        ("", sample),
        *((f",group={size}", sample.reshape(-1, size)) for size in groups),
    ):
        codes = _codes(parts)
        if codes is not None and (text := _uniform(codes, max_bits)):
            return text.format(setting)
    for setting, per_tensor in ((",scale=tensor", True), ("", False)):
        values = weight.detach()
        if torch.equal(round_to_nearest(values, Float8(), per_tensor=per_tensor).dequantized(),
                       values):  # fmt: skip
            return f"fp8{setting}"
    return ""


def _uniform(codes: Tensor, max_bits: int) -> str:
    """Return the step for codes ``(groups, n)``, with a placeholder for what shares a scale; empty
    if they leave gaps, or span too many bits."""
    sizes = codes.abs()
    first, last = -(-int(sizes.max()) // 4), int(sizes.max()) // 2
    middle = codes[(sizes >= first) & (sizes <= last)]
    possible = 2 * (last - first + 1)
    if possible > 2 and middle.unique().numel() < MIN_USED * possible <= middle.numel() / MANY:
        return ""
    lowest, highest = codes.amin(dim=-1).clamp(max=0), codes.amax(dim=-1).clamp(min=0)
    symmetric = max(int(torch.maximum(highest, -lowest - 1).max()).bit_length() + 1, MIN_BITS)
    affine = max(int((highest - lowest).max()).bit_length(), MIN_BITS)
    if affine < symmetric and affine <= max_bits:
        return f"rtn-int{affine}{{}},symmetric=false"
    return f"rtn-int{symmetric}{{}}" if symmetric <= max_bits else ""


def _codes(parts: Tensor) -> Tensor | None:
    """Return the codes of groups ``(groups, n)``, or None if they are not on a grid."""
    eps = torch.finfo(parts.dtype).eps
    values = parts.double()
    values = values[(values != 0).sum(dim=-1) >= MIN_VALUES]
    if not len(values):
        return None
    with_zero = torch.cat([values, torch.zeros_like(values[:, :1])], dim=-1)
    gaps = with_zero.sort(dim=-1).values.diff(dim=-1)
    largest = values.abs().amax(dim=-1, keepdim=True)
    smallest = torch.where(gaps > 2 * eps * largest, gaps, torch.inf).amin(dim=-1, keepdim=True)
    found, waiting = [], torch.ones(len(values), dtype=torch.bool, device=values.device)
    for divisor in DIVISORS:
        codes, is_on_grid = _fit(values, smallest / divisor, eps)
        found.append(codes[is_on_grid & waiting])
        waiting &= ~is_on_grid
    is_rare = waiting.double().mean() <= 1 - SHARE_ON_GRID
    return torch.cat(found) if is_rare else None


def _fit(values: Tensor, scales: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the codes of groups for approximate scales, and which groups are on the grid."""
    codes = (values / scales).round()
    scales = (values * codes).sum(dim=-1, keepdim=True) / codes.square().sum(dim=-1, keepdim=True)
    codes = (values / scales).round()
    is_on_grid = ((values - codes * scales).abs() <= 2 * eps * values.abs()).all(dim=-1)
    levels = codes.amax(dim=-1).clamp(min=0) - codes.amin(dim=-1).clamp(max=0)
    return codes, is_on_grid & (levels <= min(MOST_LEVELS, 0.25 / eps))
