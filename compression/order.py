"""Reject recipes in which a step would undo an earlier one, before any step runs."""

from itertools import combinations

from transformers import PreTrainedModel

from compression_gates.compression import catalogue
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.layers import selected_layers
from compression_gates.compression.recipe import Recipe, Step, trains

RENAMING = (
    catalogue.LOW_RANK, catalogue.STRUCTURED, catalogue.DISTILLATION, catalogue.USER_DEFINED,
)  # fmt: skip
"""Families that may change names or sizes of layers."""


def check_order(model: PreTrainedModel, recipe: Recipe) -> None:
    """Raise a RecipeError if a step would undo an earlier one on the same layer.

    Layers are selected in the uncompressed model. If a step changes names or sizes, a step whose
    patterns match no layer of the uncompressed model is assumed to apply to all layers.
    """
    for earlier, later in combinations(recipe.steps, 2):
        reason = _conflict(earlier, later)
        if reason is None:
            continue
        # Training changes every weight of the model, whatever layers are pruned.
        everywhere = later.entry.family == catalogue.USER_DEFINED or (
            trains(later) and earlier.entry.family == catalogue.QUANTIZATION
        )
        if everywhere or _overlap(model, recipe, earlier, later):
            raise RecipeError(f"recipe {recipe.name}: {later.name} after {earlier.name} {reason}")


def _conflict(earlier: Step, later: Step) -> str | None:
    first, second = earlier.entry.family, later.entry.family
    if second == catalogue.USER_DEFINED:
        too_late = "is not allowed: user-defined methods must come before built-in ones"
        return None if first == catalogue.USER_DEFINED else too_late
    if (
        first == catalogue.SCALING
        and second == catalogue.QUANTIZATION
        and "bits" in earlier.settings
    ):
        for name in ("bits", "group", "symmetric"):
            if later.settings.get(name, earlier[name]) != earlier[name]:
                return f"needs the {name} that its scales are for; give both steps the same {name}"
    if second == catalogue.STORAGE:
        return None
    if first == catalogue.STORAGE:
        return "is not allowed: storage must be the last step"
    if first == catalogue.QUANTIZATION:
        return "moves quantized weights off their grid; quantize last"
    if first == catalogue.PRUNING and second == catalogue.LOW_RANK:
        return "fills the zeros; factor first and prune the factors, or select other layers"
    if first == second == catalogue.PRUNING:
        return "prunes a layer twice; prune it once, or select other layers"
    if (
        first == catalogue.PRUNING
        and second == catalogue.STRUCTURED
        and earlier.settings.get("pattern")
    ):
        return "breaks the N:M groups by removing input features; make the model smaller first"
    resized = first in (catalogue.LOW_RANK, catalogue.STRUCTURED)
    if second == catalogue.DISTILLATION and resized and later["layers"] is not None:
        return "copies layers that an earlier step has resized; distill first"
    return None


def _overlap(model: PreTrainedModel, recipe: Recipe, earlier: Step, later: Step) -> bool:
    try:
        first, second = selected_layers(model, earlier), selected_layers(model, later)
    except RecipeError:
        if any(step.entry.family in RENAMING for step in recipe.steps):
            return True
        raise
    return bool(first.keys() & second.keys())
