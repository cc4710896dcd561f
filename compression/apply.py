"""Applies a recipe to a model: the one entry point of the room.

compressed = compress(model, Recipe.parse("wanda-50"), batches)
save(compressed, tokenizer, directory)          # compression.checkpoint
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.calibration import Batch, InputStatistics, visit_blocks
from compression.errors import CompressionError, RecipeError
from compression.layers import selected_layers, tied_layers
from compression.magnitude import magnitude
from compression.patterns import NofM, Pattern, Unstructured
from compression.recipe import Recipe
from compression.rounding import Rounded, round_to_nearest
from compression.sparsegpt import sparsegpt
from compression.wanda import wanda


@dataclass
class Compressed:
    """A compressed model, with what its checkpoint needs to know beyond the weights.

    Attributes:
        model: the model, changed in place.
        recipe: what was done to it.
        layers: names of the layers that were touched.
        rounded: for a quantized layer, the integers that its weights stand for.
    """

    model: PreTrainedModel
    recipe: Recipe
    layers: tuple[str, ...]
    rounded: dict[str, Rounded] = field(default_factory=dict)


def pattern_of(recipe: Recipe) -> Pattern:
    """The pruning pattern of a pruning recipe."""
    if recipe.pattern is not None:
        return NofM(*recipe.pattern)
    return Unstructured(recipe.sparsity)


@torch.no_grad()
def compress(model: PreTrainedModel, recipe: Recipe, batches: Sequence[Batch] = ()) -> Compressed:
    """Compresses ``model`` in place.

    Args:
        model: in evaluation mode; any floating dtype.
        recipe: what to do.
        batches: calibration input, as the model's forward takes it; with an ``attention_mask``
            padding counts for nothing. Methods without calibration ignore it.

    Raises:
        RecipeError: the recipe does not fit the model; nothing was changed.
        CompressionError: weights or statistics are not finite, a solver failed, or a layer
            did not reach what was asked; the model is then of no further use.
    """
    if model.training:
        raise CompressionError("the model is in training mode; call model.eval() first")
    layers = selected_layers(model, recipe)
    tied = tied_layers(model, layers)
    for name, layer in layers.items():
        if not layer.weight.isfinite().all():
            raise CompressionError(f"layer {name}: its weights are not finite")
        if recipe.method == "rtn" and name in tied:
            raise RecipeError(
                f"layer {name}: it is tied to an embedding, which the packed format cannot hold; "
                "exclude it"
            )
        if recipe.pattern is not None:
            _naming(name, pattern_of(recipe).check, layer.in_features)
    result = Compressed(model, recipe, tuple(layers))
    if recipe.method == "rtn":
        for name, layer in layers.items():
            result.rounded[name] = _round(name, layer, recipe.bits)
        return result
    if not recipe.needs_calibration:
        for name, layer in layers.items():
            _prune(name, layer, recipe, None)
        return result
    with_products = recipe.method == "sparsegpt"
    for block in visit_blocks(model, layers, batches, with_products, desc=recipe.name):
        for name, statistics in block.items():
            _prune(name, layers[name], recipe, statistics)
    return result


def _round(name: str, layer: nn.Linear, bits: int) -> Rounded:
    rounded = round_to_nearest(layer.weight, bits)
    after = rounded.dequantized()
    step = rounded.scales.float()
    # Half a step, and what rounding the scale and the product to the weight's dtype may add.
    slack = torch.finfo(after.dtype).eps * 2 ** (bits - 1) + 1e-6
    error = (after.float() - layer.weight.float()).abs()
    if (
        int(rounded.integers.abs().max()) >= 2 ** (bits - 1)
        or not (error <= step * (0.5 + slack)).all()
    ):
        raise CompressionError(f"layer {name}: rounding to {bits} bits left its grid")
    layer.weight.copy_(after)
    return rounded


def _prune(name: str, layer: nn.Linear, recipe: Recipe, statistics: InputStatistics | None) -> None:
    pattern = pattern_of(recipe)
    before = layer.weight
    if recipe.method == "magnitude":
        after = magnitude(before, pattern)
    elif recipe.method == "wanda":
        after = wanda(before, statistics.norm, pattern)
    else:
        after = _naming(name, sparsegpt, before, statistics.hessian, pattern)
    _check(
        name,
        before,
        after,
        pattern,
        per_row=recipe.method == "wanda",
        exact=recipe.method != "sparsegpt" or before.dtype == torch.float32,
    )
    layer.weight.copy_(after)


def _check(
    name: str, before: Tensor, after: Tensor, pattern: Pattern, *, per_row: bool, exact: bool
) -> None:
    """The layer reached its sparsity; if ``exact``, only zeros that were there may exceed it."""
    if not after.isfinite().all():
        raise CompressionError(f"layer {name}: pruning left weights that are not finite")
    zeros = int((after == 0).sum())
    expected = pattern.expected_zeros(*after.shape, per_row)
    spare = int((before == 0).sum())
    # Corrected weights may underflow to zero in half precision; others may not appear.
    most = expected + spare if exact else zeros
    if not expected <= zeros <= most:
        raise CompressionError(f"layer {name}: {zeros} zeros where {expected} were asked for")
    if isinstance(pattern, NofM):
        kept = (after != 0).unflatten(1, (-1, pattern.m)).sum(dim=-1)
        if int(kept.max()) > pattern.n:
            raise CompressionError(f"layer {name}: a group keeps more than {pattern}")


def _naming(name: str, function, *arguments):
    """Calls ``function``; its errors and warnings then name the layer."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*arguments)
        except (CompressionError, RecipeError) as error:
            raise type(error)(f"layer {name}: {error}") from error
    for warning in caught:
        warnings.warn(f"layer {name}: {warning.message}", warning.category, stacklevel=3)
    return result
