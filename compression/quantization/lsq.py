"""Learned step size quantization (Esser et al. 2020, sections 2 and 2.1).

The step ``s`` of a grid is learned by gradient, through the rounding by a straight-through
estimate (equation 3)::

    v = clamp(w / s, -Q_N, Q_P)        w' = round(v) * s
    dw'/ds = round(v) - v   inside the range,  -Q_N or Q_P  outside

(The paper scales this gradient for its optimizer; Adam, used here, is blind to a scale.) Here it
descends the layer's own output error over the calibration inputs, so that no label is needed and
layers are learned one by one::

    E = tr((W - W') H (W - W')^T),        H = 2 X X^T / tokens

``Q_N`` is ``Q_P`` here, as in every symmetric grid of :mod:`compression.quantization.grids`; the
paper has one code more below zero. It starts from the uniform grid's steps and keeps the best ones
seen for each row, so the learned grid is never worse than the uniform one.
"""

import torch
from torch import Tensor

from compression_gates.compression.calibration.driver import InputStatistics
from compression_gates.compression.calibration.hessian import output_error
from compression_gates.compression.quantization.grids import Quantized, Uniform, groups_of
from compression_gates.compression.quantization.nearest import rtn
from compression_gates.compression.recipe import Step

LEARNING_RATE = 1e-2
"""Of Adam, on the factor by which a step differs from where it began."""


def quantize(weight: Tensor, step: Step, seen: InputStatistics, keep_zeros: bool) -> Quantized:
    """``weight`` ``(rows, columns)`` as a step asks for it; rounded to nearest where no token
    reached it. Zeros are on the grid, and stay."""
    if not seen.tokens:
        return rtn(weight, step)
    return learned_steps(weight, seen.hessian, step["bits"], step["group"], step["iterations"])


class _Rounding(torch.autograd.Function):
    """``clamp(round(v), -q, q) * s`` with the gradients of equation 3, for the step alone."""

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
    """``weight`` ``(rows, columns)`` on a symmetric grid with learned steps.

    Args:
        weight: any floating dtype; learned in float32.
        hessian: ``(columns, columns)``, ``2 X X^T`` over calibration tokens, up to a factor.
        bits: 2 to 8.
        group: how many consecutive weights of a row share a step; None for the whole row.
        iterations: gradient steps.
        learning_rate: about by how much of its start a step moves at a time.
    """
    grid = Uniform(bits)
    count = groups_of(weight.shape[1], group)
    parts = weight.detach().unflatten(1, (count, -1))
    start, _ = grid.fit(parts)
    values = parts.float()
    hessian = hessian / hessian.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    # Learned as a factor of the start, so that one learning rate fits every row.
    factor = torch.ones_like(start, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([factor], lr=learning_rate)
    best = torch.full((len(weight),), torch.inf, device=weight.device)
    best_steps = start.clone()
    for _ in range(iterations + 1):
        steps = start.float() * factor.clamp(min=1e-3)
        # What is stored is a step in the weight's own dtype, so that is what is judged.
        steps = steps + (steps.to(weight.dtype).float() - steps).detach()
        rounded = _Rounding.apply(values, steps, grid.highest)
        errors = output_error((rounded - values).flatten(1), hessian)
        with torch.no_grad():
            chosen = steps.detach().to(weight.dtype)
            judged = errors
            if weight.dtype != torch.float32:
                # Half precision also rounds the products that are computed with.
                stored = grid.decode(grid.encode(parts, chosen, None), chosen, None)
                judged = output_error((stored.float() - values).flatten(1), hessian)
            better = judged < best
            best = torch.where(better, judged, best)
            best_steps = torch.where(better[:, None, None], chosen, best_steps)
        optimizer.zero_grad()
        errors.sum().backward()
        optimizer.step()
    best_steps = torch.where(best_steps > 0, best_steps, torch.ones_like(best_steps)).detach()
    codes = grid.encode(parts, best_steps, None).flatten(1)
    return Quantized(grid, codes, best_steps.squeeze(-1))
