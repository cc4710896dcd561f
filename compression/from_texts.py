"""Compresses a model with texts, from Python."""

import copy
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression_gates.compression.apply import compress as apply
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.loading import load
from compression_gates.compression.model.text_files import read_texts
from compression_gates.compression.model.texts import batches_of, padding_token
from compression_gates.compression.recipe import Recipe, Step, needs_data


def compress(
    model: str | Path | PreTrainedModel,
    recipe: str,
    data: str | Path | Sequence[str | tuple[str, int]] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "cpu",
) -> Compressed:
    """Applies a recipe to a model.

    Args:
        model: a folder, a hub id, or a model in memory, which stays as it is.
        recipe: such as ``"wanda-50+gptq-int4"``.
        data: what the methods see: a file, or texts, of classifiers also ``(text, label)``.
        tokenizer: of a model in memory.
        device: where a folder or a hub id is loaded.

    Returns:
        The compressed model; ``save(directory)`` writes its checkpoint.

    Raises:
        CompressionError: what is wrong with the recipe, the model or the data.

    >>> compress("base", "wanda-50", ["A text."]).save("pruned")  # doctest: +SKIP
    """
    parsed = Recipe.parse(recipe)
    if isinstance(model, str | Path):
        model, own = load(str(model), "model", device)
        tokenizer = tokenizer or own
    else:
        model = copy.deepcopy(model).eval()
    if tokenizer is None:
        raise CompressionError("a model in memory needs its tokenizer")
    if isinstance(data, str | Path):
        texts, labels = read_texts(Path(data), "data")
    else:
        rows = [(row, None) if isinstance(row, str) else row for row in data]
        texts = [text for text, _ in rows]
        known = [label for _, label in rows]
        labels = None if None in known or not known else known

    def batches(step: Step) -> list:
        return batches_of(step, model, tokenizer, texts, labels)

    if any(map(needs_data, parsed.steps)) and not texts:
        raise CompressionError(f"recipe {parsed.name} needs texts; give data")
    result = apply(model, parsed, batches, padding_token(model, tokenizer))
    result.tokenizer = tokenizer
    return result
