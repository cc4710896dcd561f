"""Runs a scaling step, which prepares a model for quantization without changing its outputs.

The function of a method is ``find_scales(model, pairs, step, batches) -> {pair: scales}``. The
output of the producer of a pair is divided by its scales ``(channels,)``. :func:`visit_pairs` gives
the function the statistics of the consumers' inputs.
"""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import blocks, visit_groups
from compression_gates.compression.calibration.resources import current, in_host_memory
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.catalogue import QUANTIZATION
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError, RecipeError, naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import selected_layers
from compression_gates.compression.quantization.grids import group_count
from compression_gates.compression.recipe import Step
from compression_gates.compression.scaling.pairs import ScalingPair, find_pairs, write


def check(model: PreTrainedModel, step: Step) -> None:
    """Raise a RecipeError if a group does not fit a selected layer, or no pair can be scaled."""
    layers = selected_layers(model, step)
    for name, layer in layers.items():
        with naming(name):
            group_count(layer.in_features, step.settings.get("group"))
    unusable: dict[str, list[ScalingPair]] = {}
    for pair, reason in find_pairs(model, layers):
        if reason is None:
            return
        unusable.setdefault(reason, []).append(pair)
    reasons = "".join(f"; {_not_scaled(reason, pairs)}" for reason, pairs in unusable.items())
    raise RecipeError(
        f"{step.name}: {type(model).__name__} has no norm or linear layer whose output can be "
        f"scaled for the selected layers{reasons}"
    )


@torch.no_grad()
def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Scale every usable pair of the selected layers in place; a note names the other pairs.

    All scales are computed before any is applied. A layer can be the consumer of one pair and the
    producer of another, and the scales of the two must not influence each other.

    Raises:
        RecipeError: the step does not fit the model.
        CompressionError: the calibration failed.
    """
    model = compressed.model
    pairs: list[ScalingPair] = []
    unusable: dict[str, list[ScalingPair]] = {}
    for pair, reason in find_pairs(model, selected_layers(model, step)):
        if reason is None:
            pairs.append(pair)
        else:
            unusable.setdefault(reason, []).append(pair)
    scales = step.entry.implementation(model, pairs, step, batches)
    for pair, values in scales.items():
        if not write(pair.changes(in_host_memory(values))):
            unusable.setdefault("the scaled weights overflow its dtype", []).append(pair)
    later = compressed.recipe.steps[compressed.recipe.steps.index(step) :]
    if not any(other.entry.family == QUANTIZATION for other in later):
        compressed.notes.append(f"{step.name}: no quantization step follows this scaling step")
    for reason, some in unusable.items():
        compressed.notes.append(f"{step.name}: {_not_scaled(reason, some)}")


def visit_pairs(
    model: PreTrainedModel,
    pairs: Sequence[ScalingPair],
    batches: Sequence[Batch],
    with_products: bool,
    desc: str,
) -> Iterator[tuple[ScalingPair, dict[str, InputStatistics]]]:
    """Yield each pair with the input statistics of its consumers by name, including magnitudes.

    A pair is yielded once all its consumers have been visited. They can be in several blocks, as in
    the cross-attention of a decoder.

    Args:
        model: in evaluation mode.
        pairs: the pairs to visit.
        batches: the calibration data.
        with_products: whether the statistics include the products of the inputs.
        desc: label of the progress bar.

    Raises:
        CompressionError: the calibration failed.
    """
    if current().device is not None:
        for pair in pairs:
            if len(blocks(model, list(pair.consumers))) > 1:
                raise CompressionError(
                    f"{desc}: {pair} are in several blocks, of which only one fits on the GPU; "
                    "give --device cpu"
                )
    layers = {name: layer for pair in pairs for name, layer in pair.consumers.items()}
    waiting, statistics = list(pairs), {}
    for group in visit_groups(model, layers, batches, with_products, desc, with_magnitudes=True):
        statistics |= group
        for pair in [pair for pair in waiting if pair.consumers.keys() <= statistics.keys()]:
            waiting.remove(pair)
            yield pair, {name: statistics.pop(name) for name in pair.consumers}


def _not_scaled(reason: str, pairs: Sequence[ScalingPair]) -> str:
    if len(pairs) == 1:
        return f"{pairs[0]} is not scaled: {reason}"
    return f"{pairs[0]} and {len(pairs) - 1} more are not scaled: {reason}"
