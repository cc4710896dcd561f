"""Rounding to nearest on a grid, without calibration data.

The functions have the arguments of all quantization methods, of which they use two; see
:mod:`compression_gates.compression.quantization.step`.
"""

from torch import Tensor

from compression_gates.compression.quantization.grids import (
    Float8,
    LogGrid,
    Quantized,
    Uniform,
    round_to_nearest,
)
from compression_gates.compression.recipe import Step


def rtn(weight: Tensor, step: Step, *unused: object) -> Quantized:
    """Return ``weight`` ``(rows, columns)`` on the uniform grid of the step's settings."""
    grid = Uniform(step["bits"], step.settings.get("symmetric", True))
    per_tensor = step.settings.get("scale") == "tensor"
    return round_to_nearest(weight, grid, step["group"], per_tensor)


def log(weight: Tensor, step: Step, *unused: object) -> Quantized:
    """Return ``weight`` ``(rows, columns)`` on powers of two (Miyashita et al. 2016, section 3)."""
    return round_to_nearest(weight, LogGrid(step["bits"]), step["group"])


def fp8(weight: Tensor, step: Step, *unused: object) -> Quantized:
    """Return ``weight`` ``(rows, columns)`` in E4M3 (Micikevicius et al. 2022, table 1)."""
    return round_to_nearest(weight, Float8(), per_tensor=step["scale"] == "tensor")
