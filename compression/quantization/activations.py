"""Dynamic 8-bit quantization of inputs, with one symmetric scale for each token.

The values are computed in the dtype of the inputs::

    int8    s_t = max_j |x_tj| / 127.5    x'_tj = clamp(round(x_tj / s_t), -128, 127) * s_t
    float8  s_t = max_j |x_tj| / 448      x'_tj = E4M3(x_tj / s_t) * s_t

compressed-tensors rounds inputs in the same way when it loads such a checkpoint. A W8A8 kernel
multiplies the rounded values. Here they are multiplied in floating point, which shows the effect of
the rounding on quality but not on speed.

For inputs of two dimensions, such as those of a pooler or of OPT, compressed-tensors 0.20 uses a
scale for every number. Such a checkpoint is saved in the project's own format instead.
"""

import torch
from torch import Tensor, nn

from compression_gates.compression.quantization.grids import LARGEST_FLOAT8, Float8, Grid

LEVELS = 255
INT8, FLOAT8 = "int8", "float8"


def input_format(grid: Grid) -> str:
    """Return the format to which inputs are rounded when the weights are on ``grid``."""
    return FLOAT8 if isinstance(grid, Float8) else INT8


def rounded_inputs(inputs: Tensor, number_format: str = INT8) -> Tensor:
    """Return ``inputs`` ``(..., features)`` rounded with a scale for each token."""
    largest = inputs.abs().amax(dim=-1, keepdim=True)
    scales = largest / (LEVELS / 2 if number_format == INT8 else LARGEST_FLOAT8)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    codes = inputs / scales
    if number_format == INT8:
        codes = codes.round().clamp(-(LEVELS + 1) // 2, LEVELS // 2)
    else:
        codes = codes.clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8)
        codes = codes.to(torch.float8_e4m3fn).to(inputs.dtype)
    return codes * scales


def round_inputs_of(module: nn.Module, number_format: str) -> None:
    """Register a hook that rounds the first input of ``module`` before every call."""
    module.register_forward_pre_hook(
        lambda module, inputs: (rounded_inputs(inputs[0], number_format), *inputs[1:])
    )
