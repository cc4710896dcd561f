"""Compress a model from Python, with texts as data."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression_gates.compression import apply
from compression_gates.compression.calibration.resources import Resources, memory_of
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.pretrained import check_device, load, place
from compression_gates.compression.model.step_data import batches_from, texts_of
from compression_gates.compression.model.text_rows import Row, read_rows
from compression_gates.compression.model.texts import padding_token
from compression_gates.compression.recipe import Recipe


def compress(
    model: str | Path | PreTrainedModel | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    recipe: str,
    data: str | Path | Iterable[Row] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "cpu",
    memory: str | None = None,
) -> Compressed:
    """Apply a recipe to a model.

    Args:
        model: a directory, a hub id, or a model in memory, which is copied, by itself or in a
            tuple with its tokenizer.
        recipe: for example ``"wanda-50+gptq-int4"``.
        data: calibration or training texts: a file, or rows, each a text, ``{"text", "label"}`` or
            ``(text, label)``. A step with the setting ``data`` uses that file instead.
        tokenizer: tokenizer of a model in memory.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``, for a directory or a hub id; with
            ``auto``, a model that is too large for the GPU remains in host memory.
        memory: memory for activations of calibration, such as ``"8GB"``; by default half of what is
            free.

    Returns:
        The compressed model; ``save(directory)`` writes its checkpoint.

    Raises:
        CompressionError: the recipe, the model or the data is invalid.

    >>> compress("base", "wanda-50", ["A text."]).save("pruned")  # doctest: +SKIP
    """
    if isinstance(model, tuple) and len(model) == 2:
        model, tokenizer = model
    if not isinstance(model, str | Path | PreTrainedModel):
        raise CompressionError(
            f"model: {type(model).__name__} is not a directory, a hub id, a PreTrainedModel or a "
            "tuple of one and its tokenizer"
        )
    parsed = Recipe.parse(recipe)
    resources = Resources(memory_of("memory", memory))
    if isinstance(data, str | Path):
        data = Path(data)
    elif data is not None:
        data = read_rows(data, "data")
    texts = texts_of(parsed, data, "data", "give data")
    if isinstance(model, str | Path):
        check_device("device", device)
        model, loaded_tokenizer = load(str(model), "model")
        resources = replace(resources, device=place(model, device))
        tokenizer = tokenizer or loaded_tokenizer
    else:
        model = copy.deepcopy(model).eval()
    if tokenizer is None:
        raise CompressionError("tokenizer: a model in memory needs one; give the model's tokenizer")
    batches = batches_from(texts, model, tokenizer, "data")
    result = apply.compress(model, parsed, batches, padding_token(model, tokenizer), resources)
    result.tokenizer = tokenizer
    return result
