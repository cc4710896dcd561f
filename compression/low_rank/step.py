"""Runs a low-rank step.

The function of a method is ``factors(weight, step, moments) -> (first, second)``. ``moments`` are
the statistics of the layer's inputs, including their products, or None if the method does not
calibrate.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import groups_of
from compression_gates.compression.calibration.resources import in_host_memory
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import RecipeError, naming
from compression_gates.compression.low_rank.svd import is_smaller
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import Layer, check_untied, excluding_experts
from compression_gates.compression.model.surgery import factored_like, set_module
from compression_gates.compression.model.tracing import select_reached
from compression_gates.compression.recipe import Step, calibrates


def check(model: PreTrainedModel, step: Step) -> None:
    """Raise a RecipeError if a selected layer cannot be factored."""
    layers, _ = select_reached(model, step)
    check_untied(model, layers)
    for name, layer in layers.items():
        if layer.expert is not None:
            raise RecipeError(
                f"layer {name}: an expert cannot be factored; {excluding_experts(layers)}"
            )


@torch.no_grad()
def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Replace the selected layers by two factors each, where these have fewer parameters.

    A note names the layers that are not replaced.

    Raises:
        RecipeError: the step does not fit the model.
        CompressionError: the calibration failed, or a layer cannot be factored.
    """
    model = compressed.model
    layers, notes = select_reached(model, step)
    compressed.notes += notes
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for group in groups_of(model, layers, batches, calibrates(step), step.name):
        for name, moments in group.items():
            with naming(name):
                first, second = _factors(layers[name], step, moments)
                factors[name] = in_host_memory(first), in_host_memory(second)
    for name, (first, second) in factors.items():
        replace_by_factors(compressed, layers[name], first, second)


def _factors(layer: Layer, step: Step, moments: InputStatistics | None) -> tuple[Tensor, Tensor]:
    """Return the factors of a layer.

    Their product is written to the layer, so that later layers are calibrated with its outputs.
    """
    weight = layer.weight
    first, second = step.entry.implementation(weight, step, moments)
    if is_smaller(len(first), *weight.shape):
        weight.copy_(second @ first)
    return first, second


def replace_by_factors(compressed: Compressed, layer: Layer, first: Tensor, second: Tensor) -> None:
    rows, columns = layer.weight.shape
    rank = len(first)
    if not is_smaller(rank, rows, columns):
        compressed.notes.append(
            f"{layer.name} is not factored: two factors of rank {rank} have no fewer parameters "
            f"than {rows} x {columns}"
        )
        return
    factors = factored_like(layer.module, rank)
    factors.first.weight.copy_(first)
    factors.second.weight.copy_(second)
    if layer.bias is not None:
        factors.second.bias.copy_(layer.bias)
    model = compressed.model
    set_module(model, layer.name, factors.train(model.training))
    compressed.layout.factored[layer.name] = rank
