"""Carries out a scaling step: the model computes what it did, and quantizes better."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.calibration import InputStatistics, visit_blocks
from compression.catalogue import QUANTIZATION
from compression.compressed import Compressed
from compression.errors import RecipeError, naming
from compression.layers import selected_layers
from compression.quantization.grids import Uniform, groups_of
from compression.recipe import Step
from compression.scaling.awq import rounding_error, search
from compression.scaling.pairs import Pair, find_pairs, write
from compression.scaling.smoothquant import smoothing_scales
from compression.watching import Batch


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where a group does not fit a layer, or nothing can be scaled."""
    layers = selected_layers(model, step)
    if step.method == "awq":
        for name, layer in layers.items():
            with naming(name):
                groups_of(layer.in_features, step["group"])
    left: dict[str, list[Pair]] = {}
    for pair, reason in find_pairs(model, layers):
        if reason is None:
            return
        left.setdefault(reason, []).append(pair)
    reasons = "".join(f"; {_told(reason, pairs)}" for reason, pairs in left.items())
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
    pairs: list[Pair] = []
    left: dict[str, list[Pair]] = {}
    for pair, reason in find_pairs(model, selected_layers(model, step)):
        if reason is None:
            pairs.append(pair)
        else:
            left.setdefault(reason, []).append(pair)
    layers = {name: layer for pair in pairs for name, layer in pair.consumers.items()}
    products = step.method == "awq"
    seen: dict[str, InputStatistics] = {}
    scales: dict[Pair, Tensor] = {}
    for block in visit_blocks(model, layers, batches, products, desc=step.name):
        seen |= block
        # Consumers of one producer may be in several blocks, as in a decoder's cross-attention.
        for pair in pairs:
            if pair.consumers.keys() <= seen.keys():
                scales[pair] = _scales(
                    pair, step, {name: seen.pop(name) for name in pair.consumers}
                )
    for pair, found in scales.items():
        if not write(pair.moved(found)):
            left.setdefault("its dtype cannot hold the scaled weights", []).append(pair)
    later = compressed.recipe.steps[compressed.recipe.steps.index(step) :]
    if not any(other.entry.family == QUANTIZATION for other in later):
        compressed.notes.append(f"{step.name} prepares a quantization, and none follows")
    for reason, some in left.items():
        compressed.notes.append(f"{step.name}: {_told(reason, some)}")


def _scales(pair: Pair, step: Step, seen: Mapping[str, InputStatistics]) -> Tensor:
    """``(channels,)`` what the producer's output is divided by."""
    weights = {name: layer.weight for name, layer in pair.consumers.items()}
    if step.method == "smoothquant":
        inputs = {name: statistics.largest for name, statistics in seen.items()}
        ranges = {name: weight.abs().amax(dim=0).float() for name, weight in weights.items()}
        return smoothing_scales(
            pair.gathered(inputs, "amax"), pair.gathered(ranges, "amax"), step["alpha"]
        )
    magnitudes = {name: statistics.mean_magnitude for name, statistics in seen.items()}
    hessians = {name: statistics.hessian for name, statistics in seen.items()}
    grid = Uniform(step["bits"], step["symmetric"])

    def error(scales: Tensor) -> Tensor:
        return sum(
            rounding_error(weight, pair.columns(name, scales), hessians[name], grid, step["group"])
            for name, weight in weights.items()
        )

    return search(pair.gathered(magnitudes, "mean"), error, step["grid"])


def _told(reason: str, pairs: Sequence[Pair]) -> str:
    more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    return f"{pairs[0]}{more} stay unscaled: {reason}"
