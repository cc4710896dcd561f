"""Which layers of a model a recipe touches, found by one walk over its modules."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from compression.errors import RecipeError
from compression.recipe import Recipe


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Every linear layer by name, each shared module once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def tied_layers(model: PreTrainedModel, layers: Mapping[str, nn.Linear]) -> set[str]:
    """Names of the ``layers`` that share their weight with an embedding."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {name for name, layer in layers.items() if id(layer.weight) in tables}


def backbone_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Linear layers inside the backbone: no output head, and nothing tied to an embedding."""
    inside = {id(module) for module in model.base_model.modules()}
    if model.base_model is model:
        raise RecipeError(
            f"{type(model).__name__} has no backbone apart from its head; name the layers "
            "with include"
        )
    everything = linear_layers(model)
    tied = tied_layers(model, everything)
    return {
        name: layer
        for name, layer in everything.items()
        if id(layer) in inside and name not in tied
    }


def selected_layers(model: PreTrainedModel, recipe: Recipe) -> dict[str, nn.Linear]:
    """The layers that ``recipe`` touches, in the order of the module tree.

    Without ``include`` these are the linear layers of the backbone; the output head and tied
    embeddings are touched only if a pattern of ``include`` names them.

    Raises:
        RecipeError: a pattern that matches nothing, or no layer left.
    """
    everything = linear_layers(model)
    for pattern in (*recipe.include, *recipe.exclude):
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise RecipeError(
                f"recipe {recipe.name}: the pattern {pattern!r} matches no linear layer of "
                f"{type(model).__name__}; its layers are named like "
                f"{next(iter(everything), None)!r}"
            )
    chosen = everything if recipe.include else backbone_layers(model)
    chosen = {
        name: layer
        for name, layer in chosen.items()
        if (not recipe.include or any(fnmatchcase(name, p) for p in recipe.include))
        and not any(fnmatchcase(name, p) for p in recipe.exclude)
    }
    if not chosen:
        raise RecipeError(f"recipe {recipe.name}: no layer of {type(model).__name__} is left")
    return chosen
