"""Dynamic activations of eight bits: each token's inputs rounded to its own symmetric grid.

::

    int8    s_t = max_j |x_tj| / 127.5    x'_tj = clamp(round(x_tj / s_t), -128, 127) * s_t
    float8  s_t = max_j |x_tj| / 448      x'_tj = E4M3(x_tj / s_t) * s_t

in the dtype of the inputs, as compressed-tensors rounds when it loads such a checkpoint. This is
what a W8A8 kernel computes with; here the values are rounded and multiplied in floating point, so
it shows what the rounding does to quality and nothing of the speed. (In an input of two
dimensions, a pooler's or OPT's, compressed-tensors 0.20 gives each number a scale of its own; such
a checkpoint takes the project's own format.)
"""

import torch
from torch import Tensor, nn

from compression_gates.compression.quantization.grids import LARGEST_FLOAT8, Float8, Grid

LEVELS = 255
INT8, FLOAT8 = "int8", "float8"


def kind_of(grid: Grid) -> str:
    """How inputs are rounded beside weights on ``grid``."""
    return FLOAT8 if isinstance(grid, Float8) else INT8


def rounded_inputs(inputs: Tensor, kind: str = INT8) -> Tensor:
    """``inputs`` ``(..., features)`` at the nearest values of each token's grid."""
    largest = inputs.abs().amax(dim=-1, keepdim=True)
    scales = largest / (LEVELS / 2 if kind == INT8 else LARGEST_FLOAT8)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    codes = inputs / scales
    if kind == INT8:
        codes = codes.round().clamp(-(LEVELS + 1) // 2, LEVELS // 2)
    else:
        codes = (
            codes.clamp(-LARGEST_FLOAT8, LARGEST_FLOAT8).to(torch.float8_e4m3fn).to(inputs.dtype)
        )
    return codes * scales


def round_inputs_of(module: nn.Module, kind: str) -> None:
    """Makes a layer round its inputs from now on."""
    module.register_forward_pre_hook(
        lambda module, inputs: (rounded_inputs(inputs[0], kind), *inputs[1:])
    )
