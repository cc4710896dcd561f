"""Carries out a pruning step."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.calibration import InputStatistics, collect, visit_blocks
from compression.compressed import Compressed
from compression.errors import CompressionError, RecipeError, naming
from compression.gradients import mean_gradients
from compression.layers import Layer, check_untied, selected_layers
from compression.pruning.magnitude import magnitude_scores
from compression.pruning.movement import movement
from compression.pruning.owl import owl_sparsities
from compression.pruning.patterns import NofM, Pattern, Unstructured, global_masks, prune_mask
from compression.pruning.sparsegpt import sparsegpt
from compression.pruning.taylor import taylor_scores
from compression.pruning.wanda import wanda
from compression.recipe import Step, calibrates
from compression.watching import Batch

Scores = tuple[Tensor, Tensor | None]
"""Scores of a layer's weights, and what decides among equal ones."""


def pattern_of(step: Step) -> Pattern:
    """The pattern that a pruning step asks for."""
    if step.settings.get("pattern") is not None:
        return NofM(*step["pattern"])
    return Unstructured(step["sparsity"])


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where the pattern does not fit a layer."""
    pattern = pattern_of(step)
    if isinstance(pattern, NofM) and step.settings.get("allocation") == "owl":
        raise RecipeError(f"{step.name}: OWL spreads a sparsity; {pattern} is the same everywhere")
    if step.settings.get("allocation") == "uniform":
        for name in {"outlier", "spread"} & dict(step.given).keys():
            raise RecipeError(f"{step.name}: {name} is of OWL; give allocation=owl with it")
    layers = selected_layers(model, step)
    if step.method == "movement":
        check_untied(model, layers)
    for name, layer in layers.items():
        with naming(name):
            pattern.check(layer.in_features)
            if step.method == "movement" and layer.expert is not None:
                raise RecipeError("movement pruning needs a module of its own; exclude experts")


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Prunes the layers that the step chooses."""
    model = compressed.model
    layers = selected_layers(model, step)
    patterns = dict.fromkeys(layers, pattern_of(step))
    if step.settings.get("allocation") == "owl":
        patterns = _owl(model, layers, step, batches)
    if calibrates(step):
        products = step.method == "sparsegpt"
        for block in visit_blocks(model, layers, batches, products, desc=step.name):
            for name, seen in block.items():
                after = _calibrated(name, layers[name].weight, patterns[name], step, seen)
                put(name, layers[name], after, patterns[name], step)
    elif step.method == "movement":
        masks = movement(model, layers, batches, step, compressed.zeros_keeper(model))
        _mask(layers, masks.items())
    else:
        gradients = _gradients(model, layers, batches, step) if step.method == "taylor" else None

        def scores(name: str) -> Scores:
            weight = layers[name].weight.detach()
            if gradients is None:
                return magnitude_scores(weight), None
            return taylor_scores(weight, gradients[name]), magnitude_scores(weight)

        _mask(layers, masks_of(scores, layers, patterns, step["scope"]))
    compressed.pruned |= patterns


def _calibrated(
    name: str, weight: Tensor, pattern: Pattern, step: Step, seen: InputStatistics
) -> Tensor:
    with torch.no_grad(), naming(name):
        if step.method == "wanda" or not seen.tokens:
            # Without any input Wanda's scores tie, and magnitude breaks the ties.
            return wanda(weight, seen.norm, pattern)
        return sparsegpt(weight, seen.hessian, pattern, damping=step["damping"])


def _gradients(
    model: PreTrainedModel, layers: Mapping[str, Layer], batches: Sequence[Batch], step: Step
) -> dict[str, Tensor]:
    """The gradient ``(out, in)`` of each layer's weight."""
    stored = list({id(layer.stored): layer.stored for layer in layers.values()}.values())
    gradients = mean_gradients(model, stored, batches, desc=step.name)
    by_id = {id(parameter): gradient for parameter, gradient in zip(stored, gradients, strict=True)}
    return {name: part_of(layer, by_id[id(layer.stored)]) for name, layer in layers.items()}


def masks_of(
    scores: Callable[[str], Scores],
    layers: Iterable[str],
    patterns: Mapping[str, Pattern],
    scope: str,
) -> Iterator[tuple[str, Tensor]]:
    """The mask of the pruned weights of each layer, by lowest score in the scope.

    One layer at a time, but where all layers compete: scores of a large model take twice its
    memory.
    """
    pattern = next(iter(patterns.values()))
    if scope == "global" and isinstance(pattern, Unstructured):
        found = {name: scores(name) for name in layers}
        ties = {name: tie for name, (_, tie) in found.items() if tie is not None}
        yield from global_masks(
            {name: score for name, (score, _) in found.items()}, pattern, ties or None
        ).items()
        return
    for name in layers:
        score, tie = scores(name)
        yield name, prune_mask(score, patterns[name], per_row=scope == "row", tie_break=tie)


def part_of(layer: Layer, tensor: Tensor) -> Tensor:
    """The layer's part ``(out, in)`` of a tensor like the parameter that stores its weight."""
    part = tensor if layer.expert is None else tensor[layer.expert]
    return part.T if layer.transposed else part


@torch.no_grad()
def _mask(layers: Mapping[str, Layer], masks: Iterable[tuple[str, Tensor]]) -> None:
    for name, mask in masks:
        layers[name].weight.masked_fill_(mask, 0.0)


@torch.no_grad()
def put(name: str, layer: Layer, after: Tensor, pattern: Pattern, step: Step) -> None:
    """Writes the pruned weight once it is what was asked for.

    Raises:
        CompressionError: not finite, too few or too many zeros, or a group with too many weights.
    """
    before = layer.weight
    if not after.isfinite().all():
        raise CompressionError(f"layer {name}: pruning left weights that are not finite")
    zeros = int((after == 0).sum())
    per_row = step.method == "wanda"
    expected = pattern.expected_zeros(*after.shape, per_row)
    # Only zeros that were there may exceed it. SparseGPT's corrected weights may also underflow.
    exact = step.method != "sparsegpt" or before.dtype == torch.float32
    most = expected + int((before == 0).sum()) if exact else zeros
    if not expected <= zeros <= most:
        raise CompressionError(f"layer {name}: {zeros} zeros where {expected} were asked for")
    if isinstance(pattern, NofM):
        kept = (after != 0).unflatten(1, (-1, pattern.m)).sum(dim=-1)
        if int(kept.max()) > pattern.n:
            raise CompressionError(f"layer {name}: a group keeps more than {pattern}")
    before.copy_(after)


def _owl(
    model: PreTrainedModel, layers: Mapping[str, Layer], step: Step, batches: Sequence[Batch]
) -> dict[str, Pattern]:
    """A pattern for each layer: alike within a block, by the share of outliers between blocks."""
    seen = collect(model, layers, batches, with_products=False)
    sparsities = owl_sparsities(
        model,
        {name: layer.weight.detach() for name, layer in layers.items()},
        {name: statistics.norm for name, statistics in seen.items()},
        step["sparsity"], step["outlier"], step["spread"],
    )  # fmt: skip
    return {name: Unstructured(sparsity) for name, sparsity in sparsities.items()}
