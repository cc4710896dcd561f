"""Greedy continuations of prompts, and the probabilities of another model's continuations.

Each model continues the prompts on its own. A candidate is also given the baseline's continuations
as input (teacher forcing), and its most likely token is recorded at every position. The positions
where the two models differ are then known for the whole continuation, and not only up to the first
difference, after which free continuations are no longer comparable.
"""

from collections.abc import Mapping

import numpy as np
import torch

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches, padded
from compression_gates.evals.scoring.generation import PADDING, greedy, up_to_end
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.scoring.protocols import ContinuationProtocol


def continue_prompts(
    loaded: Loaded,
    data: DataSet,
    protocol: ContinuationProtocol,
    reference: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Continue every prompt greedily, and score a reference continuation of it.

    A continuation ends after ``protocol.max_new_tokens`` tokens or where the model ends it. If
    prompt and continuation do not fit into the model's context, the prompt is truncated on the
    left.

    Args:
        loaded: a causal model.
        data: prompts.
        protocol: length of the continuations and format of the prompts.
        reference: the result of this function for the baseline, whose continuations are scored.
            None scores the model's own continuations.

    Returns:
        ``tokens`` ``(prompts, new)``: the continuation with its end token, then -1;
        ``continuations`` ``(prompts,)``: the same as text;
        ``ended`` ``(prompts,)``: whether an end token ended the continuation;
        ``empty`` ``(prompts,)``: whether its text is nothing but white space;
        ``choices`` ``(prompts, new)``: the most likely token at each position of the reference
        continuation, then -1;
        ``chances`` ``(prompts, new)``: the probability of each token of the reference continuation
        in float32, then 0;
        ``pieces`` and ``choice_pieces`` ``(prompts, new)``: each token of ``tokens`` and
        ``choices`` as text;
        ``context``: largest number of tokens of a prompt with its continuation;
        ``finite`` ``(prompts,)``: whether no logit was NaN.

    Raises:
        EvalError: the model's context leaves no room for a prompt.
    """
    context = loaded.max_tokens if reference is None else int(reference["context"])
    room = context - protocol.max_new_tokens
    if room < 2:
        raise EvalError(
            f"data set {data.name}: continuations have {protocol.max_new_tokens} tokens, but "
            f"{loaded.checkpoint.label} has a context of {context}, which leaves no room for a "
            "prompt"
        )
    encoded = encode_prompts(loaded, data, protocol.chat)
    prompts = [_truncated(ids, room, loaded.tokenizer.bos_token_id) for ids in encoded]
    tokens, free_finite = _generate(loaded, data, prompts, protocol)
    expected = tokens if reference is None else reference["tokens"]
    texts = [_decoded(loaded, row) for row in tokens]
    choices, chances, forced_finite = _teacher_forced(loaded, data, prompts, expected, protocol)
    return {
        "tokens": tokens,
        "continuations": np.array(texts),
        "ended": np.isin(tokens, loaded.eos_token_ids).any(axis=1),
        "empty": np.array([not text.strip() for text in texts]),
        "choices": choices,
        "chances": chances,
        "pieces": _pieces(loaded, tokens),
        "choice_pieces": _pieces(loaded, choices),
        "context": np.array(context),
        "finite": free_finite & forced_finite,
    }


def _truncated(ids: list[int], room: int, bos_token_id: int | None) -> list[int]:
    """Return the last ``room`` tokens of a prompt; a first BOS token is kept."""
    if len(ids) <= room:
        return ids
    first = ids[:1] if ids[0] == bos_token_id else []
    return [*first, *ids[len(ids) - room + len(first) :]]


def _generate(
    loaded: Loaded, data: DataSet, prompts: list[list[int]], protocol: ContinuationProtocol
) -> tuple[np.ndarray, np.ndarray]:
    """Return greedy continuations ``(prompts, new)``, and ``(prompts,)`` whether no logit of them
    was NaN."""
    tokens = np.full((len(prompts), protocol.max_new_tokens), PADDING, np.int64)
    finite = np.ones(len(prompts), bool)
    until = {"eos_token_id": loaded.eos_token_ids or None}

    def run(batch: list[int]) -> None:
        rows = [prompts[index] for index in batch]
        generated = greedy(loaded, rows, protocol.max_new_tokens, until)
        generated_rows = zip(batch, generated.tokens.tolist(), generated.broken, strict=True)
        for index, row, broken in generated_rows:
            ids = up_to_end(row, loaded.eos_token_ids)
            finite[index] = not broken[: len(ids)].any()
            tokens[index] = PADDING
            tokens[index, : len(ids)] = ids

    lengths = [len(ids) + protocol.max_new_tokens for ids in prompts]
    label = f"{loaded.checkpoint.label}: {data.name}, continued"
    in_batches(lengths, protocol.batch_tokens, run, label, "prompt")
    return tokens, finite


@torch.inference_mode()
def _teacher_forced(
    loaded: Loaded,
    data: DataSet,
    prompts: list[list[int]],
    expected: np.ndarray,
    protocol: ContinuationProtocol,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score the given continuations ``(prompts, new)``.

    Returns:
        The most likely token at each position and the probability of the given token, both of the
        shape of ``expected``; and ``(prompts,)`` whether no logit was NaN.
    """
    choices = np.full(expected.shape, PADDING, np.int64)
    chances = np.zeros(expected.shape, np.float32)
    finite = np.ones(len(prompts), bool)
    sequences = [
        [*ids, *row[row != PADDING].tolist()] for ids, row in zip(prompts, expected, strict=True)
    ]

    def run(batch: list[int]) -> None:
        inputs = padded(loaded, [sequences[index] for index in batch])
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        logits = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        scores = []
        for row, index in enumerate(batch):
            start, stop = len(prompts[index]) - 1, len(sequences[index]) - 1
            predicting = logits[row, start:stop].float()
            targets = ids[row, start + 1 : stop + 1].to(predicting.device)
            likely = predicting.softmax(-1).gather(1, targets[:, None])[:, 0]
            # Token ids are exact in float64.
            columns = likely, predicting.argmax(-1), predicting.isnan().any(-1)
            scores.append(torch.stack([column.double() for column in columns]))
        lengths = [score.shape[1] for score in scores]
        whole = torch.cat(scores, 1).cpu()
        for index, score in zip(batch, whole.split(lengths, 1), strict=True):
            chances[index, : score.shape[1]] = score[0]
            choices[index, : score.shape[1]] = score[1]
            finite[index] = not bool(score[2].any())

    label = f"{loaded.checkpoint.label}: {data.name}, choices"
    in_batches([len(ids) for ids in sequences], protocol.batch_tokens, run, label, "prompt")
    return choices, chances, finite


def _decoded(loaded: Loaded, row: np.ndarray) -> str:
    return loaded.tokenizer.decode(row[row != PADDING].tolist(), skip_special_tokens=True)


def _pieces(loaded: Loaded, tokens: np.ndarray) -> np.ndarray:
    """Return each token as text, and empty text for padding."""
    distinct, index = np.unique(tokens, return_inverse=True)
    decode = loaded.tokenizer.decode
    texts = ["" if token == PADDING else decode([token]) for token in distinct.tolist()]
    return np.array(texts)[index].reshape(tokens.shape)
