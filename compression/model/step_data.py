"""What the steps of a recipe see: texts, read before a model is loaded, and batches of them.

Importable without torch.
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
"""Texts, and their labels if they have any."""


def texts_of(
    recipe: Recipe, data: Path | Texts | None, option: str, hint: str
) -> dict[str | None, Texts]:
    """The texts that steps see, by their setting ``data``; those of ``data`` under None.

    Args:
        recipe: whose helpers are checked as well.
        data: a file or texts, for steps that name no file of their own.
        option: what ``data`` was given as, for messages.
        hint: what to do where a step needs texts and there are none.

    Raises:
        CompressionError: a step needs texts, a file cannot be read, or a helper cannot be one.
    """
    found: dict[str | None, Texts] = {}
    for step in filter(needs_data, recipe.steps):
        own = step["data"]
        if own is not None and own not in found:
            found[own] = read_texts(Path(own), "data =")
        elif own is None and data is None:
            raise CompressionError(f"{step.name} needs texts; {hint}")
        elif None not in found:
            found[None] = read_texts(data, option) if isinstance(data, Path) else data
    for step in recipe.steps:
        check_helpers(step)
    return found


def batches_from(
    texts: Mapping[str | None, Texts],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    option: str,
) -> Callable[[Step], list["Batch"]]:
    """What gives the batches of a step.

    Raises:
        CompressionError: a label is no class of the model.
    """
    from compression_gates.compression.model.texts import batches_of, check_labels

    for name, (_, labels) in texts.items():
        try:
            check_labels(model, labels or ())
        except CompressionError as error:
            where = option if name is None else f"data = {name}"
            raise CompressionError(f"{where}: {error}") from None
    return lambda step: batches_of(step, model, tokenizer, *texts[step["data"]])
