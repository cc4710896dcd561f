"""Extractive question answering: the span of its context that a model gives as the answer."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches
from compression_gates.evals.scoring.protocols import ExtractionProtocol

MIN_CONTEXT_TOKENS = 8
"""Smallest number of context tokens in a window beside the longest question."""


@dataclass(frozen=True)
class Window:
    """A question with as much of its context as fits into the model's input.

    Attributes:
        ids: token ids, special tokens included.
        types: token type ids, or None if the tokenizer returns none.
        item: index of the question.
        offsets: for each token, the indices of its first character in the context and of the
            character after its last one; None for tokens outside the context.
    """

    ids: list[int]
    types: list[int] | None
    item: int
    offsets: list[tuple[int, int] | None]


def encode_questions(
    data: DataSet, tokenizer: PreTrainedTokenizerBase, length: int, stride: int
) -> list[Window]:
    """Return the windows of all questions, each of at most ``length`` tokens.

    Consecutive windows of a question overlap by ``stride`` tokens, or by half of the room beside
    the longest question if that is less.

    Raises:
        EvalError: the tokenizer returns no offsets, or a question leaves fewer than
            :data:`MIN_CONTEXT_TOKENS` tokens for its context.
    """
    if not tokenizer.is_fast:
        raise EvalError("extractive answers need a tokenizer with offsets (tokenizer.json)")
    questions = [item.question.strip() for item in data.items]
    lengths = [len(ids) for ids in tokenizer(questions, verbose=False).input_ids]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    # A pair has up to two more separators than a question alone.
    room = length - lengths[longest] - 2
    if room < MIN_CONTEXT_TOKENS:
        raise EvalError(
            f"data set {data.name}: question {longest + 1} takes {lengths[longest]} tokens of a "
            f"window of {length}, which leaves too few for its context; shorten the question"
        )
    encoded = tokenizer(
        questions, [item.context for item in data.items],
        truncation="only_second", max_length=length, stride=min(stride, room // 2),
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    types = encoded.get("token_type_ids")
    windows = []
    for row, item in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets = [
            tuple(offset) if sequence == 1 else None
            for offset, sequence in zip(
                encoded["offset_mapping"][row], encoded.sequence_ids(row), strict=True
            )
        ]
        windows.append(Window(encoded["input_ids"][row], types and types[row], item, offsets))
    return windows


@torch.inference_mode()
def extract(loaded: Loaded, data: DataSet, protocol: ExtractionProtocol) -> dict[str, np.ndarray]:
    """Answer each question with the best span over all windows of its context.

    The score of a span is the sum of its start logit and its end logit. The answer is the span of
    at most ``protocol.longest`` tokens with the highest score (Devlin et al. 2019, section 4.2).

    Returns:
        ``continuations`` ``(questions,)``: the answers; empty if no span has a finite score;
        ``finite`` ``(questions,)``: whether all logits were finite;
        ``log_probabilities`` ``(ends, tokens)`` in float32: for each window one row for the start
        and one for the end of the answer, -inf after the end of the window;
        ``item`` ``(ends,)``: the question of each of these rows.

    Raises:
        EvalError: as for :func:`encode_questions`.
    """
    limit = min(loaded.tokenizer.model_max_length, loaded.max_tokens, protocol.length)
    windows = encode_questions(data, loaded.tokenizer, limit, protocol.stride)
    width = max(len(window.ids) for window in windows)
    answers = [(-np.inf, "")] * len(data.items)
    finite = np.ones(len(data.items), bool)
    table = np.full((len(windows), 2, width), -np.inf, np.float32)

    def run(batch: list[int]) -> None:
        output = loaded.model(**_padded([windows[i] for i in batch], loaded))
        for row, index in enumerate(batch):
            window = windows[index]
            logits = torch.stack((output.start_logits[row], output.end_logits[row])).float()
            logits = logits[:, : len(window.ids)]
            finite[window.item] &= bool(logits.isfinite().all())
            table[index, :, : len(window.ids)] = logits.log_softmax(-1).cpu().numpy()
            best = _best_span(logits.cpu().numpy(), window, protocol.longest)
            if best is not None and best[0] > answers[window.item][0]:
                start, stop = best[1]
                answers[window.item] = (best[0], data.items[window.item].context[start:stop])

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


def _best_span(
    logits: np.ndarray, window: Window, longest: int
) -> tuple[float, tuple[int, int]] | None:
    """Return the score and the characters of the best span inside the context.

    Args:
        logits: ``(2, tokens)``, of the start and of the end.
        window: the window that the logits are of.
        longest: largest number of tokens of a span.

    Returns:
        None if no span has a finite score.
    """
    inside = np.array([offset is not None for offset in window.offsets])
    scores = logits[0][:, None] + logits[1][None, :]
    allowed = np.triu(np.ones_like(scores, bool)) & ~np.triu(np.ones_like(scores, bool), longest)
    allowed &= inside[:, None] & inside[None, :]
    scores = np.where(allowed & np.isfinite(scores), scores, -np.inf)
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    if not np.isfinite(scores[first, last]):
        return None
    return float(scores[first, last]), (window.offsets[first][0], window.offsets[last][1])
