"""Applies a recipe to a model: the one entry point of the room.

compressed = compress(model, Recipe.parse("wanda-50+gptq-int4"), batches)
save(compressed, tokenizer, directory)          # compression_gates.compression.checkpoint.saving
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from transformers import PreTrainedModel

from compression_gates.compression import catalogue
from compression_gates.compression.calibration.silent_experts import silent_experts
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import (
    CompressionError,
    RecipeError,
    is_failure,
    placed_reason_of,
)
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.finite import check_finite
from compression_gates.compression.model.layers import outside_layers
from compression_gates.compression.order import RENAMING, check_order
from compression_gates.compression.recipe import Recipe, Step, needs_data

OUTSIDE = 0.05
"""Share of the weights outside of layers above which a note says so."""
Data = Callable[[Step], Sequence[Batch]] | Sequence[Batch]
_STEPS = {
    catalogue.PRUNING: ".pruning.step",
    catalogue.STRUCTURED: ".structured.step",
    catalogue.QUANTIZATION: ".quantization.step",
    catalogue.SCALING: ".scaling.step",
    catalogue.LOW_RANK: ".low_rank.step",
    catalogue.DISTILLATION: ".distillation.step",
    catalogue.STORAGE: ".checkpoint.storage",
    catalogue.OWN: ".own_method",
}
"""For each family the module whose ``check`` and ``run`` carry out a step."""


def compress(
    model: PreTrainedModel, recipe: Recipe, data: Data = (), padding: int | None = None
) -> Compressed:
    """Compresses ``model``, in place but for distillation, which gives a student.

    Args:
        model: in evaluation mode; any floating dtype.
        recipe: what to do.
        data: batches, as the model's forward takes them, for every step that needs some, or a
            function that gives those of a step. With an ``attention_mask`` padding counts for
            nothing; ``labels`` are used where a loss is.
        padding: token that batches are padded with, for a classifier over the last token whose
            configuration names none. The configuration stays as it is.

    Raises:
        RecipeError: the recipe does not fit the model. What the model as it is can tell is told
            before anything is changed; a later step may find out only when it is reached.
        CompressionError: weights or statistics are not finite, a solver failed, a layer did not
            reach what was asked, or a method raised whatever error, which is the cause; the model
            is then of no further use.
    """
    if model.training:
        raise CompressionError("the model is in training mode; call model.eval() first")
    if getattr(model.config, "quantization_config", None) is not None:
        raise RecipeError(
            "the model is compressed already, as its quantization_config says; "
            "start from the uncompressed one"
        )
    for step in recipe.steps:
        step.entry.implementation  # noqa: B018 - one that is missing is told before any work
    check_finite(model)
    check_order(model, recipe)
    with _padded_with(padding, model) as changed:
        compressed = _compressed(model, recipe, data)
        changed.append(compressed.model)
    return compressed


@contextmanager
def _padded_with(token: int | None, model: PreTrainedModel) -> Iterator[list[PreTrainedModel]]:
    """Names the padding token in a configuration that names none; on exit it names none again, and
    so do the models that were appended to the list."""
    config = model.config.get_text_config()
    changed = [model]
    if token is None or getattr(config, "pad_token_id", None) is not None:
        yield changed
        return
    known = hasattr(config, "pad_token_id")
    config.pad_token_id = token
    try:
        yield changed
    finally:
        for config in {id(c): c for c in (m.config.get_text_config() for m in changed)}.values():
            if known:
                config.pad_token_id = None
            else:
                del config.pad_token_id


def _compressed(model: PreTrainedModel, recipe: Recipe, data: Data) -> Compressed:
    # Layers of a step behind one that renames are not there before that was taken.
    renaming = (n for n, step in enumerate(recipe.steps) if step.entry.family in RENAMING)
    known = next(renaming, len(recipe.steps)) + 1
    for number, step in enumerate(recipe.steps[:known]):
        family = import_module(_STEPS[step.entry.family], __package__)
        with _telling(step, model):
            family.check(model, step)
            if number and step.entry.family == catalogue.STRUCTURED:
                family.dry_run(model, step)
    distils = any(step.entry.family == catalogue.DISTILLATION for step in recipe.steps)
    compressed = Compressed(model, recipe, copy.deepcopy(model) if distils else None)
    compressed.notes += _outside(model, recipe)
    for number, step in enumerate(recipe.steps):
        batches = ()
        family = import_module(_STEPS[step.entry.family], __package__)
        with _telling(step, compressed.model), silent_experts(compressed.notes, step):
            if needs_data(step):
                batches = data(step) if callable(data) else data
            if number >= known:
                family.check(compressed.model, step)
            family.run(compressed, step, batches)
        check_finite(compressed.model, when=f" after {step.name}")
    compressed.teacher = None
    return compressed


def _outside(model: PreTrainedModel, recipe: Recipe) -> list[str]:
    """A note where steps that choose layers by themselves leave out a good part of the weights."""
    if not any(
        step.entry.family not in (catalogue.DISTILLATION, catalogue.OWN) and not step["include"]
        for step in recipe.steps
    ):
        return []
    share, largest = outside_layers(model)
    if share <= OUTSIDE:
        return []
    return [
        f"{share:.0%} of the weights are in parameters that are no linear layer and stay as they "
        f"are, such as {largest}"
    ]


@contextmanager
def _telling(step: Step, model: PreTrainedModel) -> Iterator[None]:
    """Whatever error ends what runs inside becomes a CompressionError that names step and layer."""
    try:
        yield
    except CompressionError:
        raise
    except BaseException as error:  # models and methods may be anybody's
        if not is_failure(error):
            raise
        raise CompressionError(f"{step.name}: {placed_reason_of(error, model)}") from error
