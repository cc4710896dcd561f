"""Apply a recipe to a model.

compressed = compress(model, Recipe.parse("wanda-50+gptq-int4"), batches)
save(compressed, tokenizer, directory)          # compression_gates.compression.checkpoint.saving
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from transformers import PreTrainedModel

from compression_gates.compression import catalogue
from compression_gates.compression.calibration.resources import Resources, using
from compression_gates.compression.calibration.unrouted_experts import unrouted_experts
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

MAX_OUTSIDE = 0.05
"""Share of the weights outside linear layers above which a note is added."""
Data = Callable[[Step], Sequence[Batch]] | Sequence[Batch]
_STEPS = {
    catalogue.PRUNING: ".pruning.step",
    catalogue.STRUCTURED: ".structured.step",
    catalogue.QUANTIZATION: ".quantization.step",
    catalogue.SCALING: ".scaling.step",
    catalogue.LOW_RANK: ".low_rank.step",
    catalogue.DISTILLATION: ".distillation.step",
    catalogue.STORAGE: ".checkpoint.storage",
    catalogue.USER_DEFINED: ".user_method",
}
"""Module of each family, with functions ``check`` and ``run`` for a step."""


def compress(
    model: PreTrainedModel,
    recipe: Recipe,
    data: Data = (),
    padding: int | None = None,
    resources: Resources = Resources(),  # noqa: B008 - frozen
) -> Compressed:
    """Apply ``recipe`` to ``model`` in place; distillation creates a new model.

    Args:
        model: in evaluation mode; any floating-point dtype.
        recipe: the steps to apply.
        data: batches of forward arguments for every step that needs data, or a function that
            returns the batches of a step. Tokens that ``attention_mask`` masks are ignored;
            ``labels`` are used by methods with a loss.
        padding: id of the padding token in the batches, for a classifier over the last token whose
            configuration has none. The configuration is restored at the end.
        resources: the memory and the device that calibration may use.

    Raises:
        RecipeError: the recipe does not fit the model. Everything that the uncompressed model
            determines is checked before anything is changed; later steps can also fail when they
            are reached.
        CompressionError: weights or statistics are not finite, a solver failed, a layer missed its
            target, or a method raised another error, which is the cause. The model must then be
            discarded.
    """
    if model.training:
        raise CompressionError("the model is in training mode; call model.eval() first")
    if getattr(model.config, "quantization_config", None) is not None:
        raise RecipeError(
            "the model is already compressed: its configuration has a quantization_config; "
            "start from the uncompressed model"
        )
    for step in recipe.steps:
        step.entry.implementation  # noqa: B018 - raises if it is missing
    check_finite(model)
    check_order(model, recipe)
    with using(resources), _padded_with(padding, model) as changed:
        compressed = _compressed(model, recipe, data)
        changed.append(compressed.model)
    return compressed


@contextmanager
def _padded_with(token: int | None, model: PreTrainedModel) -> Iterator[list[PreTrainedModel]]:
    """Set the padding token of a configuration that has none. On exit, remove it from the
    configurations of the models in the returned list."""
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
    families = [import_module(_STEPS[step.entry.family], __package__) for step in recipe.steps]
    # The layers of a step after a renaming one exist only once that step has run.
    renaming = (n for n, step in enumerate(recipe.steps) if step.entry.family in RENAMING)
    checkable = next(renaming, len(recipe.steps)) + 1
    for number, (step, family) in enumerate(zip(recipe.steps[:checkable], families, strict=False)):
        with _errors_named(step, model):
            family.check(model, step)
            if number and step.entry.family == catalogue.STRUCTURED:
                family.dry_run(model, step)
    distills = any(step.entry.family == catalogue.DISTILLATION for step in recipe.steps)
    compressed = Compressed(model, recipe, copy.deepcopy(model) if distills else None)
    compressed.notes += _outside(model, recipe)
    for number, (step, family) in enumerate(zip(recipe.steps, families, strict=True)):
        batches = ()
        with _errors_named(step, compressed.model), unrouted_experts(compressed.notes, step):
            if needs_data(step):
                batches = data(step) if callable(data) else data
            if number >= checkable:
                family.check(compressed.model, step)
            family.run(compressed, step, batches)
        check_finite(compressed.model, when=f" after {step.name}")
    compressed.teacher = None
    return compressed


def _outside(model: PreTrainedModel, recipe: Recipe) -> list[str]:
    """Return a note if many weights are outside the layers that steps select by default."""
    whole_model = (catalogue.DISTILLATION, catalogue.USER_DEFINED)
    if all(step.entry.family in whole_model or step["include"] for step in recipe.steps):
        return []
    share, largest = outside_layers(model)
    if share <= MAX_OUTSIDE:
        return []
    return [
        f"{share:.0%} of the weights are outside linear layers and remain uncompressed, such as "
        f"those of {largest}"
    ]


@contextmanager
def _errors_named(step: Step, model: PreTrainedModel) -> Iterator[None]:
    """Convert any error to a CompressionError that names the step and the layer."""
    try:
        yield
    except CompressionError:
        raise
    except BaseException as error:  # models and methods can be third-party code
        if not is_failure(error):
            raise
        raise CompressionError(f"{step.name}: {placed_reason_of(error, model)}") from error
