"""Carries out a low-rank step.

A method's function is ``factors(weight, step, seen) -> (first, second)``, with the statistics of
the layer's inputs and their products where the method calibrates, otherwise None.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import InputStatistics, visit_blocks
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import RecipeError, naming
from compression_gates.compression.low_rank.svd import is_smaller
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import Layer, check_untied, excluding_experts
from compression_gates.compression.model.surgery import factored_like, set_module
from compression_gates.compression.model.tracing import select_reached
from compression_gates.compression.recipe import Step, calibrates


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError for a layer that cannot be two."""
    layers, _ = select_reached(model, step)
    check_untied(model, layers)
    for name, layer in layers.items():
        if layer.expert is not None:
            raise RecipeError(
                f"layer {name}: an expert cannot be factored; {excluding_experts(layers)}"
            )


@torch.no_grad()
def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Factors the layers that the step chooses; one whose factors are no smaller stays dense, and
    one whose weight the model reads by itself, which two factors do not have."""
    model = compressed.model
    layers, notes = select_reached(model, step)
    compressed.notes += notes
    found: dict[str, tuple[Tensor, Tensor]] = {}
    if calibrates(step):
        for block in visit_blocks(model, layers, batches, with_products=True, desc=step.name):
            for name, seen in block.items():
                with naming(name):
                    found[name] = _factors(layers[name], step, seen)
    else:
        for name, layer in layers.items():
            with naming(name):
                found[name] = _factors(layer, step, None)
    for name, (first, second) in found.items():
        _replace(compressed, layers[name], first, second)


def _factors(layer: Layer, step: Step, seen: InputStatistics | None) -> tuple[Tensor, Tensor]:
    """The factors of a layer, which computes with their product from now on, so that later blocks
    are calibrated on what it will give."""
    weight = layer.weight
    first, second = step.entry.implementation(weight, step, seen)
    if is_smaller(len(first), *weight.shape):
        weight.copy_(second @ first)
    return first, second


def _replace(compressed: Compressed, layer: Layer, first: Tensor, second: Tensor) -> None:
    model = compressed.model
    rows, columns = layer.weight.shape
    rank = len(first)
    if not is_smaller(rank, rows, columns):
        compressed.notes.append(
            f"{layer.name} stays dense: rank {rank} of {rows} x {columns} would not be smaller"
        )
        return
    factors = factored_like(layer.module, rank)
    factors.first.weight.copy_(first)
    factors.second.weight.copy_(second)
    if layer.bias is not None:
        factors.second.bias.copy_(layer.bias)
    set_module(model, layer.name, factors.train(model.training))
    compressed.layout.factored[layer.name] = rank
