"""Greedy continuations of prompts, token by token, and what another model would have said there.

A model continues each prompt by itself. Beside a baseline it is also given the baseline's own
continuation, and its first choice is kept at every token of it: where the two would part is then
known for the whole continuation, not only up to the first near-tie between two words.
"""

from collections.abc import Mapping

import numpy as np
import torch

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches
from compression_gates.evals.scoring.generation import greedy
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.scoring.protocols import ContinuationProtocol

NONE = -1
"""Stands behind the end of a continuation."""


def continue_prompts(
    loaded: Loaded,
    data: DataSet,
    protocol: ContinuationProtocol,
    reference: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Continues every prompt, up to the protocol's number of tokens or where the model ends.

    Prompts that leave no room for as many tokens lose tokens at their front.

    Args:
        loaded: a causal model.
        data: prompts.
        protocol: how far.
        reference: what this function gave of the baseline, whose continuations are scored; a
            model without one scores its own.

    Returns:
        ``tokens`` ``(prompts, new)``: the continuation, its end included, and -1 behind it;
        ``continuations`` ``(prompts,)``: as text;
        ``choices`` ``(prompts, new)``: the first choice at every token of the reference;
        ``chances`` ``(prompts, new)``: the probability that the model gives to the tokens of the
        reference, in float32, and 0 behind them;
        ``pieces`` and ``choice_pieces`` ``(prompts, new)``: tokens and choices as text;
        ``context``: tokens that prompt and continuation may take;
        ``finite`` ``(prompts,)``: whether all logits were numbers.

    Raises:
        EvalError: the model takes no more tokens than it is to say.
    """
    context = loaded.max_tokens if reference is None else int(reference["context"])
    room = context - protocol.max_new_tokens
    if room < 2:
        raise EvalError(
            f"data set {data.name}: {protocol.max_new_tokens} tokens are to be continued, "
            f"{loaded.checkpoint.label} takes {context} at most"
        )
    prompts = [_fitted(ids, room, loaded) for ids in encode_prompts(loaded, data, protocol.chat)]
    tokens, finite = _continued(loaded, data, prompts, protocol)
    expected = tokens if reference is None else reference["tokens"]
    choices, chances, forced = _forced(loaded, data, prompts, expected, protocol)
    return {
        "tokens": tokens,
        "continuations": np.array([_text(loaded, row) for row in tokens]),
        "choices": choices,
        "chances": chances,
        "pieces": _pieces(loaded, tokens),
        "choice_pieces": _pieces(loaded, choices),
        "context": np.array(context),
        "finite": finite & forced,
    }


def _fitted(ids: list[int], room: int, loaded: Loaded) -> list[int]:
    """The end of a prompt, behind the token that begins a text where the tokenizer adds one."""
    if len(ids) <= room:
        return ids
    first = ids[:1] if ids[0] == loaded.tokenizer.bos_token_id else []
    return [*first, *ids[len(ids) - room + len(first) :]]


def _continued(
    loaded: Loaded, data: DataSet, prompts: list[list[int]], protocol: ContinuationProtocol
) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.full((len(prompts), protocol.max_new_tokens), NONE, np.int64)
    finite = np.ones(len(prompts), bool)

    def run(batch: list[int]) -> None:
        until = {"eos_token_id": loaded.eos_token_ids or None}
        said, rows = greedy(loaded, [prompts[i] for i in batch], protocol.max_new_tokens, until)
        finite[batch] = rows
        for index, own in zip(batch, said, strict=True):
            tokens[index] = NONE
            own = _up_to_end(own.tolist(), loaded.eos_token_ids)
            tokens[index, : len(own)] = own

    lengths = [len(ids) + protocol.max_new_tokens for ids in prompts]
    label = f"{loaded.checkpoint.label}: {data.name}, continued"
    in_batches(lengths, protocol.batch_tokens, run, label, "prompt")
    return tokens, finite


def _up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    """Tokens up to the first that ends what a model says; behind it stands padding."""
    places = [index for index, token in enumerate(ids) if token in ends]
    return ids[: places[0] + 1] if places else ids


@torch.inference_mode()
def _forced(
    loaded: Loaded,
    data: DataSet,
    prompts: list[list[int]],
    expected: np.ndarray,
    protocol: ContinuationProtocol,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First choices, probabilities and finiteness along continuations that are given."""
    choices = np.full(expected.shape, NONE, np.int64)
    chances = np.zeros(expected.shape, np.float32)
    finite = np.ones(len(prompts), bool)
    given = [[*ids, *row[row != NONE].tolist()] for ids, row in zip(prompts, expected, strict=True)]

    def run(batch: list[int]) -> None:
        padded = loaded.tokenizer.pad(
            {"input_ids": [given[index] for index in batch]},
            padding_side="right", return_tensors="pt",
        ).to(loaded.device)  # fmt: skip
        logits = loaded.model(
            input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], use_cache=False
        ).logits
        for row, index in enumerate(batch):
            start, stop = len(prompts[index]) - 1, len(given[index]) - 1
            own = logits[row, start:stop].float()
            targets = padded["input_ids"][row, start + 1 : stop + 1].to(own.device)
            count = stop - start
            finite[index] = not bool(own.isnan().any())
            choices[index, :count] = own.argmax(-1).cpu().numpy()
            likely = own.softmax(-1).gather(1, targets[:, None])[:, 0]
            chances[index, :count] = likely.cpu().numpy()

    label = f"{loaded.checkpoint.label}: {data.name}, choices"
    in_batches([len(ids) for ids in given], protocol.batch_tokens, run, label, "prompt")
    return choices, chances, finite


def _text(loaded: Loaded, row: np.ndarray) -> str:
    return loaded.tokenizer.decode(row[row != NONE].tolist(), skip_special_tokens=True)


def _pieces(loaded: Loaded, tokens: np.ndarray) -> np.ndarray:
    """Each token as text by itself; nothing behind the end."""
    known, index = np.unique(tokens, return_inverse=True)
    texts = ["" if token == NONE else loaded.tokenizer.decode([int(token)]) for token in known]
    return np.array(texts)[index].reshape(tokens.shape)
