"""Learned step size quantization (Esser et al. 2020, sections 2 and 2.1).

The step size ``s`` of a grid is learned by gradient descent, with a straight-through estimator for
the rounding (equation 3)::

    v = clamp(w / s, -Q_N, Q_P)        w' = round(v) * s
    dw'/ds = round(v) - v   inside the range,  -Q_N or Q_P  outside

The paper minimizes the loss of the whole network. Here each layer minimizes its own output error
over the calibration inputs, which needs no labels::

    E = tr((W - W') H (W - W')^T),        H = 2 X X^T / tokens

``Q_N`` equals ``Q_P``, as in every symmetric grid of
:mod:`compression_gates.compression.quantization.grids`; the paper has one more code below zero. The
paper also scales the gradient, which has no effect with Adam. The step sizes start from those of
the uniform grid and the best ones of each row are kept, so the error is never larger than that of
rounding to nearest.
"""

import torch
from torch import Tensor

from compression_gates.compression.calibration.hessian import output_error
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.quantization.grids import Quantized, Uniform, group_count
from compression_gates.compression.quantization.nearest import rtn
from compression_gates.compression.recipe import Step

LEARNING_RATE = 1e-2
"""Learning rate of Adam for the factor between a step size and its initial value."""


def quantize(weight: Tensor, step: Step, moments: InputStatistics, keep_zeros: bool) -> Quantized:
    """Return ``weight`` ``(rows, columns)`` quantized with the step's settings.

    Zeros are on the grid and remain zero. A weight that no token reached is rounded to nearest.

    Raises:
        RecipeError: the width is not a multiple of the group size.
    """
    if not moments.tokens:
        return rtn(weight, step)
    return learned_steps(weight, moments.hessian, step["bits"], step["group"], step["iterations"])


class _Rounding(torch.autograd.Function):
    """``clamp(round(w / s), -q, q) * s`` with the gradient of equation 3 for ``s`` only."""

    @staticmethod
    def forward(ctx, weight: Tensor, step: Tensor, highest: int) -> Tensor:
        ratio = weight / step
        rounded = ratio.round().clamp(-highest, highest)
        inside = ratio.abs() < highest
        ctx.save_for_backward(torch.where(inside, rounded - ratio, rounded))
        return rounded * step

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (slope,) = ctx.saved_tensors
        return None, (gradient * slope).sum(-1, keepdim=True), None


@torch.enable_grad()
def learned_steps(
    weight: Tensor,
    hessian: Tensor,
    bits: int,
    group: int | None = None,
    iterations: int = 200,
    learning_rate: float = LEARNING_RATE,
) -> Quantized:
    """Return ``weight`` on a symmetric uniform grid with learned step sizes.

    Args:
        weight: ``(rows, columns)``, any floating dtype; the computation is in float32.
        hessian: ``(columns, columns)``, ``2 X X^T`` over the calibration tokens, up to a factor.
        bits: 2 to 8.
        group: number of consecutive weights of a row that share a step size; None for the whole
            row.
        iterations: number of gradient steps.
        learning_rate: of Adam, as a fraction of the initial step size.

    Raises:
        RecipeError: the width is not a multiple of the group size.
    """
    grid = Uniform(bits)
    count = group_count(weight.shape[1], group)
    parts = weight.detach().unflatten(1, (count, -1))
    start, _ = grid.fit(parts)
    values = parts.float()
    hessian = hessian / hessian.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    # A factor of the initial step size, so that one learning rate fits every row.
    factor = torch.ones_like(start, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([factor], lr=learning_rate)
    best = torch.full((len(weight),), torch.inf, device=weight.device)
    best_steps = start.clone()
    for _ in range(iterations + 1):
        steps = start.float() * factor.clamp(min=1e-3)
        # Round to the dtype in which step sizes are stored, with a straight-through gradient.
        steps = steps + (steps.to(weight.dtype).float() - steps).detach()
        rounded = _Rounding.apply(values, steps, grid.highest)
        errors = output_error((rounded - values).flatten(1), hessian)
        with torch.no_grad():
            stored_steps = steps.detach().to(weight.dtype)
            stored_errors = errors
            if weight.dtype != torch.float32:
                # In half precision the dequantized products are rounded too.
                stored = grid.decode(grid.encode(parts, stored_steps, None), stored_steps, None)
                stored_errors = output_error((stored.float() - values).flatten(1), hessian)
            better = stored_errors < best
            best = torch.where(better, stored_errors, best)
            best_steps = torch.where(better[:, None, None], stored_steps, best_steps)
        optimizer.zero_grad()
        errors.sum().backward()
        optimizer.step()
    best_steps = torch.where(best_steps > 0, best_steps, torch.ones_like(best_steps)).detach()
    codes = grid.encode(parts, best_steps, None).flatten(1)
    return Quantized(grid, codes, best_steps.squeeze(-1))
