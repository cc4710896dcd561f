"""Read the texts that the steps of a recipe use, and make batches of them.

This module does not import torch, so that texts are read before a model is loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.references import check_helpers
from compression_gates.compression.model.text_files import read_texts
from compression_gates.compression.recipe import Recipe, Step, needs_data

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compression_gates.compression.model.capture import Batch

Texts = tuple[Sequence[str], Sequence[int] | None]
"""Texts, and their labels or None."""


def texts_of(
    recipe: Recipe, data: Path | Texts | None, option: str, hint: str
) -> dict[str | None, Texts]:
    """Return texts by the setting ``data`` of steps; those of the argument ``data`` by None.

    Also checks the references to models that generate further texts.

    Args:
        recipe: the recipe.
        data: a file or texts, for steps without the setting ``data``.
        option: the option or argument that ``data`` was given as, for messages.
        hint: what to do if a step needs texts and there are none, for messages.

    Raises:
        CompressionError: texts are missing, a file cannot be read, or a reference is invalid.
    """
    texts: dict[str | None, Texts] = {}
    for step in filter(needs_data, recipe.steps):
        file = step["data"]
        if file in texts:
            continue
        if file is not None:
            texts[file] = read_texts(Path(file), "data =")
        elif data is None:
            raise CompressionError(f"{step.name} needs texts; {hint}")
        else:
            texts[None] = read_texts(data, option) if isinstance(data, Path) else data
    for step in recipe.steps:
        check_helpers(step)
    return texts


def batches_from(
    texts: Mapping[str | None, Texts],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    option: str,
) -> Callable[[Step], list["Batch"]]:
    """Return a function that returns the batches of a step.

    Raises:
        CompressionError: a label is not a class of the model.
    """
    from compression_gates.compression.model.texts import batches_of, check_labels

    for name, (_, labels) in texts.items():
        try:
            check_labels(model, labels or ())
        except CompressionError as error:
            where = option if name is None else f"data = {name}"
            raise CompressionError(f"{where}: {error}") from None
    return lambda step: batches_of(step, model, tokenizer, *texts[step["data"]])
