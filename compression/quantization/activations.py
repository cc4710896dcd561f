"""Dynamic int8 activations: each token's inputs rounded to its own symmetric int8 grid.

::

    s_t = max_j |x_tj| / 127.5        x'_tj = clamp(round(x_tj / s_t), -128, 127) * s_t

as compressed-tensors rounds when it loads such a checkpoint. This is what a W8A8 kernel computes
with; here the values are rounded and multiplied in floating point, so it shows what the rounding
does to quality and nothing of the speed. (In an input of two dimensions, a pooler's or OPT's,
compressed-tensors 0.20 gives each number a scale of its own.)
"""

import torch
from torch import Tensor, nn

LEVELS = 255


def rounded_inputs(inputs: Tensor) -> Tensor:
    """``inputs`` ``(..., features)`` at the nearest values of each token's int8 grid."""
    scales = inputs.float().abs().amax(dim=-1, keepdim=True) / (LEVELS / 2)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    codes = (inputs.float() / scales).round().clamp(-(LEVELS + 1) // 2, LEVELS // 2)
    return (codes * scales).to(inputs.dtype)


def round_inputs_of(module: nn.Module) -> None:
    """Makes a layer round its inputs from now on."""
    module.register_forward_pre_hook(_hook)


def _hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (rounded_inputs(inputs[0]), *inputs[1:])
