"""Carries out a scaling step: the model computes what it did, and quantizes better.

A method's function is ``find_scales(model, pairs, step, batches) -> {pair: scales}``, with the
``(channels,)`` that each pair's producer is divided by; it sees the inputs of the pairs' consumers
through :func:`visit_pairs`.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import InputStatistics, visit_blocks
from compression_gates.compression.catalogue import QUANTIZATION
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import RecipeError, naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import selected_layers
from compression_gates.compression.quantization.grids import group_count
from compression_gates.compression.recipe import Step
from compression_gates.compression.scaling.pairs import ScalingPair, find_pairs, write


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where a group does not fit a layer, or nothing can be scaled."""
    layers = selected_layers(model, step)
    for name, layer in layers.items():
        with naming(name):
            group_count(layer.in_features, step.settings.get("group"))
    left: dict[str, list[ScalingPair]] = {}
    for pair, reason in find_pairs(model, layers):
        if reason is None:
            return
        left.setdefault(reason, []).append(pair)
    reasons = "".join(f"; {_summary(reason, pairs)}" for reason, pairs in left.items())
    raise RecipeError(
        f"{step.name}: in {type(model).__name__} no scale can be moved into the chosen layers "
        f"from what comes before them{reasons}"
    )


@torch.no_grad()
def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Scales every pair that the step may change.

    All scales are those of the model as it was: a layer may take a scale in its columns and give
    one away in its rows, and neither is to feel the other.
    """
    model = compressed.model
    pairs: list[ScalingPair] = []
    left: dict[str, list[ScalingPair]] = {}
    for pair, reason in find_pairs(model, selected_layers(model, step)):
        if reason is None:
            pairs.append(pair)
        else:
            left.setdefault(reason, []).append(pair)
    scales = step.entry.implementation(model, pairs, step, batches)
    for pair, found in scales.items():
        if not write(pair.moved(found)):
            left.setdefault("its dtype cannot hold the scaled weights", []).append(pair)
    later = compressed.recipe.steps[compressed.recipe.steps.index(step) :]
    if not any(other.entry.family == QUANTIZATION for other in later):
        compressed.notes.append(f"{step.name} prepares a quantization, and none follows")
    for reason, some in left.items():
        compressed.notes.append(f"{step.name}: {_summary(reason, some)}")


def visit_pairs(
    model: PreTrainedModel,
    pairs: Sequence[ScalingPair],
    batches: Sequence[Batch],
    with_products: bool,
    desc: str,
) -> Iterator[tuple[ScalingPair, dict[str, InputStatistics]]]:
    """Yields each pair with the input statistics of its consumers by name, as soon as all of them
    were seen: they may be in several blocks, as in a decoder's cross-attention."""
    layers = {name: layer for pair in pairs for name, layer in pair.consumers.items()}
    left, seen = list(pairs), {}
    for block in visit_blocks(model, layers, batches, with_products, desc):
        seen |= block
        for pair in [pair for pair in left if pair.consumers.keys() <= seen.keys()]:
            left.remove(pair)
            yield pair, {name: seen.pop(name) for name in pair.consumers}


def _summary(reason: str, pairs: Sequence[ScalingPair]) -> str:
    more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    return f"{pairs[0]}{more} stay unscaled: {reason}"
