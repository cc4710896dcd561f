"""Extractive answers: the piece of its context that a model takes for the answer of a question."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches
from compression_gates.evals.scoring.protocols import ExtractionProtocol

LEAST = 8
"""Tokens of its context that a window holds at least beside the question."""


@dataclass(frozen=True)
class Window:
    """A question with as much of its context as fits.

    Attributes:
        ids: tokens, special ones included.
        types: token types, or None where the tokenizer gives none.
        item: index of the question.
        offsets: for each token its first and last character in the context, or None outside.
    """

    ids: list[int]
    types: list[int] | None
    item: int
    offsets: list[tuple[int, int] | None]


def questions_encoded(
    data: DataSet, tokenizer: PreTrainedTokenizerBase, length: int, stride: int
) -> list[Window]:
    """All windows of all questions; those of one question overlap by ``stride`` tokens, or by half
    of what the longest question leaves.

    Raises:
        EvalError: a tokenizer that cannot say where in a text its tokens lie, or a question that
            leaves no room for its context.
    """
    if not tokenizer.is_fast:
        raise EvalError("extractive answers take a tokenizer with offsets (tokenizer.json)")
    asked = [item.question.strip() for item in data.items]
    taken = [len(ids) for ids in tokenizer(asked, verbose=False).input_ids]
    longest = max(range(len(taken)), key=taken.__getitem__)
    # One more separator, or two, stands between a question and its context.
    room = length - taken[longest] - 2
    if room < LEAST:
        raise EvalError(
            f"data set {data.name}: question {longest + 1} takes {taken[longest]} tokens of a "
            f"window of {length}, which leaves its context too few"
        )
    stride = min(stride, room // 2)
    encoded = tokenizer(
        asked, [item.context for item in data.items],
        truncation="only_second", max_length=length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    found = []
    for row, item in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = [
            tuple(offset) if sequence == 1 else None
            for offset, sequence in zip(
                encoded["offset_mapping"][row], encoded.sequence_ids(row), strict=True
            )
        ]
        types = encoded.get("token_type_ids")
        found.append(Window(encoded["input_ids"][row], types and types[row], item, offsets))
    return found


@torch.inference_mode()
def extract(loaded: Loaded, data: DataSet, protocol: ExtractionProtocol) -> dict[str, np.ndarray]:
    """The best piece of each question's context over all its windows.

    A piece scores the sum of its ends' logits; of all with at most ``longest`` tokens the highest
    is the answer (Devlin et al. 2019, section 4.2).

    Returns:
        ``continuations`` and ``finite`` ``(questions,)``: the answers, and whether all logits
        were numbers; ``log_probabilities`` ``(ends, tokens)`` in float32, a row for the start and
        one for the end of each window, -inf beyond it, and ``item`` ``(ends,)`` its question.
    """
    limit = min(loaded.tokenizer.model_max_length, loaded.max_tokens, protocol.length)
    windows = questions_encoded(data, loaded.tokenizer, limit, protocol.stride)
    width = max(len(window.ids) for window in windows)
    answers = [(-np.inf, "")] * len(data.items)
    finite = np.ones(len(data.items), bool)
    table = np.full((len(windows), 2, width), -np.inf, np.float32)

    def run(batch: list[int]) -> None:
        output = loaded.model(**_padded([windows[i] for i in batch], loaded))
        for row, index in enumerate(batch):
            window = windows[index]
            ends = torch.stack((output.start_logits[row], output.end_logits[row])).float()
            ends = ends[:, : len(window.ids)]
            finite[window.item] &= bool(ends.isfinite().all())
            table[index, :, : len(window.ids)] = ends.log_softmax(-1).cpu().numpy()
            found = _best(ends.cpu().numpy(), window, protocol.longest)
            if found is not None and found[0] > answers[window.item][0]:
                start, stop = found[1]
                answers[window.item] = (found[0], data.items[window.item].context[start:stop])

    label = f"{loaded.checkpoint.label}: {data.name}"
    in_batches([len(w.ids) for w in windows], protocol.batch_tokens, run, label, "window")
    return {
        "continuations": np.array([text for _, text in answers]),
        "finite": finite,
        "log_probabilities": table.reshape(-1, width),
        "item": np.repeat([window.item for window in windows], 2),
    }


def _padded(windows: list[Window], loaded: Loaded) -> dict[str, torch.Tensor]:
    rows: dict[str, list] = {
        "input_ids": [window.ids for window in windows],
        "attention_mask": [[1] * len(window.ids) for window in windows],
    }
    if windows[0].types is not None:
        rows["token_type_ids"] = [window.types for window in windows]
    return loaded.tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(loaded.device)


def _best(ends: np.ndarray, window: Window, longest: int) -> tuple[float, tuple[int, int]] | None:
    """Score and characters of the best piece inside the context."""
    inside = np.array([offset is not None for offset in window.offsets])
    scores = ends[0][:, None] + ends[1][None, :]
    allowed = np.triu(np.ones_like(scores, bool)) & ~np.triu(np.ones_like(scores, bool), longest)
    allowed &= inside[:, None] & inside[None, :]
    scores = np.where(allowed & np.isfinite(scores), scores, -np.inf)
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    if not np.isfinite(scores[first, last]):
        return None
    return float(scores[first, last]), (window.offsets[first][0], window.offsets[last][1])
