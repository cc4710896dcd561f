"""Steps that would undo each other are refused before any of them is taken."""

from itertools import combinations

from transformers import PreTrainedModel

from compression_gates.compression import catalogue
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.layers import selected_layers
from compression_gates.compression.recipe import Recipe, Step, trains

RENAMING = (catalogue.LOW_RANK, catalogue.STRUCTURED, catalogue.DISTILLATION, catalogue.OWN)
"""Families behind which layers may have other names or sizes."""


def check_order(model: PreTrainedModel, recipe: Recipe) -> None:
    """Raises a RecipeError where a step would undo an earlier one on the same layer.

    Layers are those of the model as it is; behind a step that renames or shrinks layers, steps
    count as touching all of them.
    """
    for earlier, later in combinations(recipe.steps, 2):
        reason = _conflict(earlier, later)
        if reason is None:
            continue
        # What trains changes every weight of the model, whatever layers it prunes.
        everywhere = later.entry.family == catalogue.OWN or (
            trains(later) and earlier.entry.family == catalogue.QUANTIZATION
        )
        if everywhere or _shared(model, recipe, earlier, later):
            raise RecipeError(f"recipe {recipe.name}: {later.name} after {earlier.name} {reason}")


def _conflict(earlier: Step, later: Step) -> str | None:
    first, second = earlier.entry.family, later.entry.family
    if second == catalogue.OWN:
        return None if first == catalogue.OWN else "is too late: methods of your own come first"
    if (
        first == catalogue.SCALING
        and second == catalogue.QUANTIZATION
        and "bits" in earlier.settings
    ):
        for name in ("bits", "group", "symmetric"):
            if later.settings.get(name, earlier[name]) != earlier[name]:
                return f"rounds at another {name} than its scales are for; give both the same"
    if second == catalogue.STORAGE:
        return None
    if first == catalogue.STORAGE:
        return "is too late: what is stored comes last"
    if first == catalogue.QUANTIZATION:
        return "takes the weights off their grid; quantize last"
    if first == catalogue.PRUNING and second == catalogue.LOW_RANK:
        return "fills its zeros; factor first and prune the factors, or choose other layers"
    if first == second == catalogue.PRUNING:
        return "prunes a layer twice; prune it once, or choose other layers"
    if (
        first == catalogue.PRUNING
        and second == catalogue.STRUCTURED
        and earlier.settings.get("pattern")
    ):
        return "breaks its groups where inputs go; make the model smaller first"
    resized = first in (catalogue.LOW_RANK, catalogue.STRUCTURED)
    if second == catalogue.DISTILLATION and resized and later["layers"] is not None:
        return "takes its layers from a model whose layers have changed; distill first"
    return None


def _shared(model: PreTrainedModel, recipe: Recipe, earlier: Step, later: Step) -> bool:
    if any(step.entry.family in RENAMING for step in recipe.steps):
        return _overlap_unknown(model, earlier, later)
    return bool(selected_layers(model, earlier).keys() & selected_layers(model, later).keys())


def _overlap_unknown(model: PreTrainedModel, earlier: Step, later: Step) -> bool:
    """Whether two steps may meet in a layer, by the names that layers have before any step."""
    try:
        first, second = selected_layers(model, earlier), selected_layers(model, later)
    except RecipeError:
        return True
    return bool(first.keys() & second.keys())
