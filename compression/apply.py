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
from compression_gates.compression.errors import CompressionError, RecipeError, placed_reason_of
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.finite import check_finite
from compression_gates.compression.order import RENAMING, check_order
from compression_gates.compression.recipe import Recipe, Step, needs_data

Data = Callable[[Step], Sequence[Batch]] | Sequence[Batch]
_STEPS = {
    catalogue.PRUNING: ".pruning.step",
    catalogue.STRUCTURED: ".structured.step",
    catalogue.QUANTIZATION: ".quantization.step",
    catalogue.SCALING: ".scaling.step",
    catalogue.LOW_RANK: ".low_rank.step",
    catalogue.DISTILLATION: ".distillation.step",
    catalogue.STORAGE: ".checkpoint.storage",
}
"""For each family the module whose ``check`` and ``run`` carry out a step."""


def compress(model: PreTrainedModel, recipe: Recipe, data: Data = ()) -> Compressed:
    """Compresses ``model``, in place but for distillation, which gives a student.

    Args:
        model: in evaluation mode; any floating dtype.
        recipe: what to do.
        data: batches, as the model's forward takes them, for every step that needs some, or a
            function that gives those of a step. With an ``attention_mask`` padding counts for
            nothing; ``labels`` are used where a loss is.

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
    # Layers of a step behind one that renames are not there before that was taken.
    renaming = (n for n, step in enumerate(recipe.steps) if step.entry.family in RENAMING)
    known = next(renaming, len(recipe.steps)) + 1
    for step in recipe.steps[:known]:
        with _telling(step, model):
            import_module(_STEPS[step.entry.family], __package__).check(model, step)
    distils = any(step.entry.family == catalogue.DISTILLATION for step in recipe.steps)
    compressed = Compressed(model, recipe, copy.deepcopy(model) if distils else None)
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


@contextmanager
def _telling(step: Step, model: PreTrainedModel) -> Iterator[None]:
    """Whatever error ends what runs inside becomes a CompressionError that names step and layer."""
    try:
        yield
    except CompressionError:
        raise
    except Exception as error:  # models and methods may be anybody's
        raise CompressionError(f"{step.name}: {placed_reason_of(error, model)}") from error
