"""Mean divergence of a model's predictions from the baseline's on a small part of the data."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from compression_gates.evals.checkpoints.checkpoint import CLASSIFIER, EXTRACTIVE
from compression_gates.evals.data.items import KEEP, DataSet, Prompt, Text, whole_text
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.answers import extract
from compression_gates.evals.scoring.baseline_files import BaselineFiles
from compression_gates.evals.scoring.classes import classify
from compression_gates.evals.scoring.divergence import divergences
from compression_gates.evals.scoring.protocols import (
    ClassProtocol,
    ExtractionProtocol,
    TextProtocol,
)
from compression_gates.evals.scoring.text import score_text

TOKENS = 1024
"""Number of tokens of the small part: its first items, as far as they fit."""
_CHARACTERS = 16
"""Number of characters of a text that are tokenized, for each token that may be kept of it."""
Divergence = Callable[[PreTrainedModel], float]
"""Returns the mean Jensen-Shannon divergence of a model's predictions, in nats."""


def small_part(loaded: Loaded, data: DataSet, limit: int = TOKENS) -> tuple[DataSet, int]:
    """Return the first items of a data set, and the number of their tokens.

    A text that does not fit is cut off; any other item is left out, unless it is the first one.
    Prompts of which none has an expected response become texts.

    Args:
        loaded: the baseline, whose tokenizer counts the tokens.
        data: the data set.
        limit: number of tokens.
    """
    items, total = [], 0
    is_bare = not any(isinstance(item, Prompt) and item.expected for item in data.items)
    for item in data.items:
        if isinstance(item, Prompt) and is_bare:
            item = Text(item.prompt, item.document)
        room = limit - total
        if isinstance(item, Text):
            item = replace(item, text=_beginning(loaded, item.text, room))
        size = len(_ids(loaded, whole_text(item)))
        if items and size > room:
            break
        items.append(item)
        total += size
        if total >= limit:
            break
    overrides = replace(data.overrides, tail=KEEP)
    return replace(data, items=tuple(items), overrides=overrides), total


def _ids(loaded: Loaded, text: str) -> list[int]:
    return loaded.tokenizer(text, verbose=False).input_ids


def _beginning(loaded: Loaded, text: str, room: int) -> str:
    """Return as much of a text as has at most ``room`` tokens, or a single character."""
    text = text[: max(room, 1) * _CHARACTERS]
    while len(text) > 1 and (size := len(_ids(loaded, text))) > room:
        text = text[: min(len(text) - 1, max(len(text) * room // size, 1))]
    return text


@contextmanager
def divergence_from(loaded: Loaded, data: DataSet, batch_tokens: int) -> Iterator[Divergence]:
    """Run a baseline on data, and return a function that compares other models with it.

    The predictions are the tokens of a text or of an expected response, the classes of a
    classifier, or the first and last tokens of the answers of an extractive model.

    Args:
        loaded: the baseline. Other models are given the same tokens.
        data: as :func:`small_part` returns it.
        batch_tokens: number of tokens of a padded batch.
    """
    kind = loaded.checkpoint.kind
    if kind in (CLASSIFIER, EXTRACTIVE):
        score = extract if kind == EXTRACTIVE else classify
        settings = ExtractionProtocol if kind == EXTRACTIVE else ClassProtocol
        protocol = settings(batch_tokens=batch_tokens).overridden(data.overrides)

        def log_probabilities(model: PreTrainedModel) -> torch.Tensor:
            side = replace(loaded, model=model)
            return torch.from_numpy(score(side, data, protocol)["log_probabilities"])

        before = log_probabilities(loaded.model)
        yield lambda model: _mean(divergences(before, log_probabilities(model))[0].numpy())
        return
    protocol = TextProtocol(batch_tokens=batch_tokens).overridden(data.overrides)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = BaselineFiles(folder / "rows.npy", folder / "head.npy")
        score_text(loaded, data, protocol, keep=files)
        yield lambda model: _mean(
            score_text(replace(loaded, model=model), data, protocol, reference=files)["js"]
        )


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64))
