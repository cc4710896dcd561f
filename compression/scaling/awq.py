"""AWQ (Lin et al. 2024, section 3.2, equations 4 and 5).

If a weight is multiplied by ``s > 1`` before it is rounded, and its input is divided by ``s``, its
rounding error becomes smaller by a factor of about ``s``. Channels with large inputs get large
scales::

    s = s_X^alpha,    alpha* = argmin || Q(W diag(s)) (diag(s)^-1 X) - W X ||,    0 <= alpha < 1

``s_X`` is the mean magnitude of the inputs of each channel. As in the authors' code, ``s`` is
divided by ``sqrt(max s min s)``. The error is summed over all layers that receive the inputs. With
``H = 2 X X^T / tokens`` over the calibration inputs it is, up to a factor::

    E = tr(D H D^T),        D = W - Q(W diag(s)) diag(s)^-1

``alpha = 0`` means no scaling, so the error over the calibration inputs is never larger than
without scaling.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

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
    """Return scales ``(channels,)`` in float32, positive and finite; all 1 for ``alpha = 0``.

    The scale of a channel whose inputs are all zero is 1.

    Args:
        magnitudes: ``(channels,)`` mean absolute inputs, ``s_X``.
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
    """Return the output error ``tr(D H D^T)`` of a layer that is rounded with scaled columns.

    Args:
        weight: ``(rows, columns)`` in the dtype of the model, to which the scaled weight is cast.
        columns: ``(columns,)`` scales.
        hessian: ``(columns, columns)`` of the inputs before scaling.
        grid: the grid of the rounded weight.
        group: number of consecutive weights of a row that share a scale of the grid.
    """
    scaled = (weight.float() * columns).to(weight.dtype)
    rounded = round_to_nearest(scaled, grid, group).dequantized()
    return output_error(weight.float() - rounded.float() / columns, hessian).sum()


def search(magnitudes: Tensor, error: Callable[[Tensor], Tensor], points: int) -> Tensor:
    """Return the scales with the smallest error for ``alpha = 0, 1 / points, ..., 1 - 1 / points``.

    Args:
        magnitudes: ``(channels,)`` mean absolute inputs.
        error: returns the error of scales ``(channels,)``. The smallest ``alpha`` wins a tie.
        points: number of values of ``alpha``.
    """
    return min((activation_aware_scales(magnitudes, k / points) for k in range(points)), key=error)


def find_scales(
    model: PreTrainedModel, pairs: Sequence[ScalingPair], step: Step, batches: Sequence[Batch]
) -> dict[ScalingPair, Tensor]:
    """Return the scales ``(channels,)`` of each pair with the smallest error in its consumers.

    Raises:
        CompressionError: the calibration failed.
    """
    grid, group = Uniform(step["bits"], step["symmetric"]), step["group"]
    scales = {}
    for pair, statistics in visit_pairs(model, pairs, batches, with_products=True, desc=step.name):
        hessians = {name: moments.hessian for name, moments in statistics.items()}
        means = {name: moments.mean_magnitude for name, moments in statistics.items()}
        error = partial(_pair_error, pair, hessians, grid, group)
        with naming(pair.name):
            scales[pair] = search(pair.reduced(means, "mean"), error, step["grid"])
    return scales


def _pair_error(
    pair: ScalingPair, hessians: Mapping[str, Tensor], grid: Grid, group: int | None, scales: Tensor
) -> Tensor:
    """Return the sum of :func:`rounding_error` over the consumers of a pair."""
    return sum(
        rounding_error(layer.weight, pair.columns(name, scales), hessians[name], grid, group)
        for name, layer in pair.consumers.items()
    )
