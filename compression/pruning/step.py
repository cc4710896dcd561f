"""Carries out a pruning step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.calibration import InputStatistics, collect, visit_blocks
from compression.compressed import Compressed
from compression.errors import CompressionError, RecipeError, naming
from compression.gradients import mean_gradients
from compression.layers import Layer, selected_layers, tied_layers
from compression.pruning.magnitude import magnitude_scores
from compression.pruning.movement import movement
from compression.pruning.owl import owl_sparsities
from compression.pruning.patterns import NofM, Pattern, Unstructured, lowest, prune_mask
from compression.pruning.sparsegpt import sparsegpt
from compression.pruning.taylor import taylor_scores
from compression.pruning.wanda import wanda
from compression.recipe import Step, calibrates
from compression.watching import Batch


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
    layers = selected_layers(model, step)
    for name, layer in layers.items():
        with naming(name):
            pattern.check(layer.in_features)
            if step.method == "movement" and layer.expert is not None:
                raise RecipeError("movement pruning needs a module of its own; exclude experts")
            if step.method == "movement" and name in tied_layers(model, layers):
                raise RecipeError(
                    "it is tied to an embedding, which would be masked too; exclude it"
                )


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
        masks = movement(model, layers, batches, step)
        _mask(layers, masks)
    else:
        scores = _scores(model, layers, step, batches)
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


def _scores(
    model: PreTrainedModel, layers: Mapping[str, Layer], step: Step, batches: Sequence[Batch]
) -> dict[str, Tensor]:
    if step.method == "magnitude":
        return {name: magnitude_scores(layer.weight.detach()) for name, layer in layers.items()}
    stored = list({id(layer.stored): layer.stored for layer in layers.values()}.values())
    gradients = mean_gradients(model, stored, batches, desc=step.name)
    by_id = {id(parameter): gradient for parameter, gradient in zip(stored, gradients, strict=True)}
    return {
        name: taylor_scores(layer.weight.detach(), part_of(layer, by_id[id(layer.stored)]))
        for name, layer in layers.items()
    }


def part_of(layer: Layer, tensor: Tensor) -> Tensor:
    """The layer's part ``(out, in)`` of a tensor like the parameter that stores its weight."""
    part = tensor if layer.expert is None else tensor[layer.expert]
    return part.T if layer.transposed else part


def masks_of(
    scores: Mapping[str, Tensor],
    layers: Mapping[str, Layer],
    patterns: Mapping[str, Pattern],
    scope: str,
) -> dict[str, Tensor]:
    """Mask of the pruned weights of each layer, by lowest score in the scope.

    Globally, scores of all layers compete and equal ones go by magnitude.
    """
    ties = {name: magnitude_scores(layers[name].weight.detach()) for name in scores}
    pattern = next(iter(patterns.values()))
    if scope != "global" or isinstance(pattern, NofM):
        return {
            name: prune_mask(score, patterns[name], per_row=scope == "row", tie_break=ties[name])
            for name, score in scores.items()
        }
    flat = torch.cat([score.flatten() for score in scores.values()])
    flat_ties = torch.cat([ties[name].flatten() for name in scores])
    mask = lowest(flat, pattern.count(len(flat)), flat_ties)
    parts = mask.split([score.numel() for score in scores.values()])
    return {
        name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


@torch.no_grad()
def _mask(layers: Mapping[str, Layer], masks: Mapping[str, Tensor]) -> None:
    for name, layer in layers.items():
        layer.weight.masked_fill_(masks[name], 0.0)


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
