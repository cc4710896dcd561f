"""AWQ (Lin et al. 2024, section 3.2, equations 4 and 5).

A weight that is multiplied by ``s > 1`` before it is rounded, and its input divided by it, has its
error divided by about ``s``. Channels with large inputs deserve it::

    s = s_X^alpha,    alpha* = argmin || Q(W diag(s)) (diag(s)^-1 X) - W X ||,    0 <= alpha < 1

with ``s_X`` the mean magnitude of each channel's inputs, and ``s`` divided by ``sqrt(max s min s)``
as in the authors' code. The error is summed over the layers that take the inputs; over the
calibration inputs it is, up to a factor, with ``H = 2 X X^T / tokens``::

    E = tr(D H D^T),        D = W - Q(W diag(s)) diag(s)^-1

``alpha = 0`` is no scaling, so on the calibration inputs the result is never worse than that.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.calibration.hessian import output_error
from compression_gates.compression.errors import naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.quantization.grids import Grid, Uniform, round_to_nearest
from compression_gates.compression.recipe import Step
from compression_gates.compression.scaling.pairs import ScalingPair
from compression_gates.compression.scaling.step import visit_pairs


def activation_aware_scales(magnitudes: Tensor, alpha: float) -> Tensor:
    """``(channels,)`` scales in float32, above zero and finite; all 1 at ``alpha = 0``.

    A channel without any input has no magnitude to go by, and scale 1.

    Args:
        magnitudes: ``(channels,)`` mean absolute inputs.
        alpha: 0 to 1.
    """
    scales = magnitudes.double().pow(alpha)
    alive = magnitudes > 0
    if not alive.any():
        return torch.ones_like(magnitudes, dtype=torch.float32)
    largest, smallest = scales[alive].max(), scales[alive].min()
    scales = (scales / (largest * smallest).sqrt()).float()
    usable = alive & scales.isfinite() & (scales > 0)
    return torch.where(usable, scales, torch.ones_like(scales))


def rounding_error(
    weight: Tensor, columns: Tensor, hessian: Tensor, grid: Grid, group: int | None = None
) -> Tensor:
    """The error ``tr(D H D^T)`` that rounding leaves in a layer with scaled columns.

    Args:
        weight: ``(rows, columns)`` in the model's dtype, in which it is also scaled.
        columns: ``(columns,)`` scales.
        hessian: ``(columns, columns)`` of the inputs before scaling.
        grid: the values of the rounded weight.
        group: how many consecutive weights of a row share a scale of the grid.
    """
    scaled = (weight.float() * columns).to(weight.dtype)
    rounded = round_to_nearest(scaled, grid, group).dequantized()
    return output_error(weight.float() - rounded.float() / columns, hessian).sum()


def search(magnitudes: Tensor, error: Callable[[Tensor], Tensor], points: int) -> Tensor:
    """The scales of least ``error`` among ``alpha = 0, 1 / points, ..., 1 - 1 / points``."""
    candidates = (activation_aware_scales(magnitudes, k / points) for k in range(points))
    best = next(candidates)
    least = error(best)
    for scales in candidates:
        found = error(scales)
        if found < least:
            best, least = scales, found
    return best


def find_scales(
    model: PreTrainedModel, pairs: Sequence[ScalingPair], step: Step, batches: Sequence[Batch]
) -> dict[ScalingPair, Tensor]:
    """The ``(channels,)`` scales of every pair that leave the least error in its consumers."""
    grid, group = Uniform(step["bits"], step["symmetric"]), step["group"]
    found = {}
    for pair, seen in visit_pairs(model, pairs, batches, with_products=True, desc=step.name):
        weights = {name: layer.weight for name, layer in pair.consumers.items()}
        hessians = {name: statistics.hessian for name, statistics in seen.items()}
        magnitudes = {name: statistics.mean_magnitude for name, statistics in seen.items()}

        def error(scales: Tensor, pair=pair, weights=weights, hessians=hessians) -> Tensor:
            return sum(
                rounding_error(weight, pair.columns(name, scales), hessians[name], grid, group)
                for name, weight in weights.items()
            )

        with naming(pair.name):
            found[pair] = search(pair.gathered(magnitudes, "mean"), error, step["grid"])
    return found
