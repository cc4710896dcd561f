"""Greedy answers to prompts."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from compression_gates.evals.checkpoints.checkpoint import SEQ2SEQ
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.data.tables import extracted
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches, padded
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.scoring.protocols import GenerationProtocol

NEAR_TIE = 4.0
"""Two logits are a near-tie if they differ by at most this times the precision of the model's dtype
times the larger one. A batch may then choose another token than a prompt by itself."""


PADDING = -1
"""Fills the rows of token arrays after the end of a generation."""


class Continuations(NamedTuple):
    """Greedy continuations of a batch of prompts.

    Attributes:
        tokens: ``(prompts, new)``, padded on the right after their end.
        broken: ``(prompts, steps)``, whether a logit of a step was NaN.
        near_ties: ``(prompts, steps)``, whether the two largest logits of a step were a near-tie.

    Steps after the end of a continuation are included, while others of the batch go on.
    """

    tokens: torch.Tensor
    broken: np.ndarray
    near_ties: np.ndarray


class _Recorder(LogitsProcessor):
    """Records NaN and near-ties of each step, on the device. Does not change the logits."""

    def __init__(self, tolerance: float):
        self._tolerance = tolerance
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best, second = scores.topk(2).values.unbind(-1)
        is_near = best - second <= self._tolerance * best.abs()
        self.steps.append(torch.stack((scores.isnan().any(-1), is_near)))
        return scores


@torch.inference_mode()
def greedy(
    loaded: Loaded, prompts: list[list[int]], max_new_tokens: int, until: Mapping[str, object]
) -> Continuations:
    """Return the greedy continuations of one batch of encoded prompts.

    The cache grows with the continuations, because a static cache of transformers is slower on a
    CPU in most shapes.

    Args:
        loaded: a causal model or an encoder-decoder.
        prompts: token ids of each prompt.
        max_new_tokens: largest number of tokens of a continuation.
        until: stopping criteria, as keyword arguments of ``generate`` of transformers.
    """
    is_encoder_decoder = loaded.checkpoint.kind == SEQ2SEQ
    inputs = padded(loaded, prompts, side="right" if is_encoder_decoder else "left")
    recorder = _Recorder(NEAR_TIE * torch.finfo(loaded.model.dtype).eps)
    padding = loaded.tokenizer.pad_token_id
    output = loaded.model.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=padding,
        logits_processor=LogitsProcessorList([recorder]),
        **until,
    )
    start = 1 if is_encoder_decoder else inputs["input_ids"].shape[1]
    tokens = output[:, start:]
    return Continuations(tokens, *torch.stack(recorder.steps, -1).cpu().numpy())


def up_to_end(ids: list[int], end_token_ids: Collection[int]) -> list[int]:
    """Return generated tokens up to the first end token; what follows is padding."""
    places = [index for index, token in enumerate(ids) if token in end_token_ids]
    return ids[: places[0] + 1] if places else ids


def up_to_stop(ids: list[int], stop: str, decode: Callable[[list[int]], str]) -> list[int]:
    """Return generated tokens up to the first one with which their text contains ``stop``.

    In a batch, padding follows. It cannot be told apart from an end token of the text where one
    token is used for both.
    """
    last = bisect_left(range(len(ids)), True, key=lambda index: stop in decode(ids[: index + 1]))
    return ids[: last + 1]


def without_padding(ids: list[int], padding: int | None) -> list[int]:
    """Return tokens without the padding at their end."""
    length = len(ids)
    while length > 1 and ids[length - 1] == padding:
        length -= 1
    return ids[:length]


def generate(loaded: Loaded, data: DataSet, protocol: GenerationProtocol) -> dict[str, np.ndarray]:
    """Answer each prompt by greedy decoding.

    An answer is cut before ``protocol.stop`` and stripped of white space, and then the part that
    ``protocol.extract`` matches is kept.

    Returns:
        ``continuations`` ``(prompts,)``: the answers;
        ``tokens`` ``(prompts, new)``: what was generated, with the tokens that ended it, then -1;
        ``ended`` ``(prompts,)``: whether the answer ends at an end token or at ``protocol.stop``,
        and not at the limit of ``protocol.max_new_tokens``;
        ``empty`` ``(prompts,)``: whether nothing but white space is left of the text before
        ``protocol.stop``;
        ``finite`` ``(prompts,)``: whether no logit was NaN;
        ``near_ties`` ``(prompts,)``: whether the answer may be another one in a batch of another
        size, see :data:`NEAR_TIE`.

    Raises:
        EvalError: a prompt and its answer do not fit into the model's context.
    """
    tokenizer = loaded.tokenizer
    encoded = encode_prompts(loaded, data, protocol.chat)
    # An encoder-decoder generates into a sequence of its own.
    answer_room = 0 if loaded.checkpoint.kind == SEQ2SEQ else protocol.max_new_tokens
    longest = max(map(len, encoded)) + answer_room
    if longest > loaded.max_tokens:
        raise EvalError(
            f"data set {data.name}: a prompt and its answer take {longest} tokens, but the context "
            f"of {loaded.checkpoint.label} has {loaded.max_tokens}; shorten the prompts or lower "
            "max_new_tokens"
        )
    until = _stopping_criteria(loaded, protocol.stop)
    ends = until.get("eos_token_id") or ()
    texts = [""] * len(encoded)
    tokens = np.full((len(encoded), protocol.max_new_tokens), PADDING, np.int64)
    finite, near_ties, ended, empty = np.zeros((4, len(encoded)), bool)
    decode = partial(tokenizer.decode, skip_special_tokens=True)

    def run(batch: list[int]) -> None:
        rows = [encoded[index] for index in batch]
        answers = greedy(loaded, rows, protocol.max_new_tokens, until)
        rows = zip(batch, answers.tokens.tolist(), answers.broken, answers.near_ties, strict=True)
        for index, row, broken, near in rows:
            ids = up_to_stop(row, protocol.stop, decode) if "stop_strings" in until else row
            ids = up_to_end(ids, ends)
            text = decode(ids)
            is_stopped = bool(protocol.stop) and protocol.stop in text
            ended[index] = is_stopped or ids[-1] in ends
            if "stop_strings" in until and ids[-1] not in ends:
                ids = without_padding(ids, tokenizer.pad_token_id)
            finite[index] = not broken[: len(ids)].any()
            near_ties[index] = near[: len(ids)].any()
            tokens[index] = PADDING
            tokens[index, : len(ids)] = ids
            text = (text.partition(protocol.stop)[0] if protocol.stop else text).strip()
            empty[index] = not text
            texts[index] = extracted(text, protocol.extract)

    label = f"{loaded.checkpoint.label}: {data.name}"
    lengths = [len(ids) + protocol.max_new_tokens for ids in encoded]
    in_batches(lengths, protocol.batch_tokens, run, label, "prompt")
    return {
        "continuations": np.array(texts),
        "tokens": tokens,
        "ended": ended,
        "empty": empty,
        "finite": finite,
        "near_ties": near_ties,
    }


def _stopping_criteria(loaded: Loaded, stop: str) -> dict[str, object]:
    """Return the arguments of ``generate`` that end an answer at an end token or at ``stop``."""
    tokenizer = loaded.tokenizer
    ids = tokenizer(stop, add_special_tokens=False).input_ids if stop else []
    if not ids:
        return {"eos_token_id": loaded.eos_token_ids or None}
    # Comparing one token is cheaper than searching the decoded text.
    if len(ids) == 1 and tokenizer.decode(ids) == stop:
        return {"eos_token_id": [*loaded.eos_token_ids, *ids]}
    return {
        "eos_token_id": loaded.eos_token_ids or None,
        "stop_strings": [stop],
        "tokenizer": tokenizer,
    }
