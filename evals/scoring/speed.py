"""Timing of baseline and candidate in interleaved runs of the same work."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

import numpy as np
import torch
from tqdm import tqdm

from compression_gates.evals.checkpoints.checkpoint import CAUSAL
from compression_gates.evals.data.items import DataSet, input_text
from compression_gates.evals.errors import EvalError, NoCacheError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.protocols import DecodeProtocol, SpeedProtocol
from compression_gates.evals.statistics.sequential import repeat_until_decided

LONGEST = 512
"""Largest number of tokens of a timed row."""


@torch.inference_mode()
def time_pairs(
    baseline: Loaded,
    candidate: Loaded,
    data: DataSet,
    protocol: SpeedProtocol,
    limits: Iterable[float] = (),
) -> dict[str, np.ndarray]:
    """Time pairs of forward passes until the speedup is decided against each limit or time is up.

    The order of the two models alternates from pair to pair, so that a drift of the machine's speed
    affects both equally. The caller keeps other work off the device.

    Args:
        baseline, candidate: the two models.
        data: texts to run.
        protocol: number of pairs, time limit and number of tokens.
        limits: of the speedup, as for :func:`evals.statistics.sequential.repeat_until_decided`.

    Returns:
        ``seconds`` ``(pairs, 2)``: the times of baseline and candidate; ``single`` ``(n, 2)``: the
        times of a batch of one row, in a fixed number of pairs.

    Raises:
        EvalError: there is no text, or the candidate's vocabulary lacks tokens of the text.
    """
    sides = (baseline, candidate)
    ids = _shared_batch(baseline, candidate, data, protocol.batch_tokens)
    times = _timed_pairs(sides, lambda side: [_forward_seconds(side, ids)], protocol, limits)
    single = _in_turn(sides, lambda side: [_forward_seconds(side, ids[:1])], protocol.single + 1)
    return {"seconds": times[..., 0], "single": single[1:, :, 0]}


@torch.inference_mode()
def time_decoding(
    baseline: Loaded,
    candidate: Loaded,
    data: DataSet,
    protocol: DecodeProtocol,
    limits: Iterable[float] = (),
) -> dict[str, np.ndarray]:
    """Time pairs of generations until the speedup of a further token is decided.

    The arguments are those of :func:`time_pairs`. Both models generate a fixed number of tokens
    greedily, whatever these are.

    Returns:
        ``seconds`` ``(pairs, 2)``: the time of one further token after one prompt; ``first``
        ``(pairs, 2)``: the time of the prompt and the first token; ``batch`` ``(n, 2)``: the time
        of one further token of each of several prompts.

    Raises:
        EvalError: as :func:`time_pairs`, or a model has no cache of keys and values.
    """
    sides = (baseline, candidate)
    prompt = _shared_batch(baseline, candidate, data, protocol.batch_tokens)[:1]
    prompt = prompt[:, : max(baseline.max_tokens - protocol.steps - 1, 1)]
    prompts = prompt.expand(protocol.rows, -1).contiguous()
    times = _timed_pairs(
        sides, lambda side: _token_seconds(side, prompt, protocol.steps), protocol, limits
    )
    batch = _in_turn(
        sides, lambda side: _token_seconds(side, prompts, protocol.steps), protocol.single + 1
    )
    return {"seconds": times[..., 0], "first": times[..., 1], "batch": batch[1:, :, 0]}


def _timed_pairs(
    sides: tuple[Loaded, Loaded],
    seconds_of: Callable[[Loaded], Sequence[float]],
    protocol: SpeedProtocol,
    limits: Iterable[float],
) -> np.ndarray:
    """Return times ``(pairs, 2, times)``, measured until the first time of the sides decides each
    limit or time is up."""
    label = f"{sides[1].checkpoint.label}: speed"
    numbers = count()  # of the pairs, warmup included
    with tqdm(total=protocol.looks[-1], desc=label, unit="pair", leave=False, disable=None) as bar:
        measured: list[np.ndarray] = []

        def measure(pairs: int) -> np.ndarray:
            measured.append(_in_turn(sides, seconds_of, pairs, numbers, bar.update))
            return measured[-1][..., 0]

        if protocol.warmup:
            measure(protocol.warmup)
        measured.clear()
        bar.reset()
        repeat_until_decided(measure, limits, protocol.budget, protocol.looks)
    return np.concatenate(measured)


def _in_turn(
    sides: tuple[Loaded, Loaded],
    seconds_of: Callable[[Loaded], Sequence[float]],
    pairs: int,
    numbers: Iterator[int] | None = None,
    after_pair: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Return times ``(pairs, 2, times)``; the sides take turns in going first."""
    numbers, rows = numbers or count(), []
    for _ in range(pairs):
        row = {}
        for side in (0, 1) if next(numbers) % 2 else (1, 0):
            row[side] = seconds_of(sides[side])
        rows.append([row[0], row[1]])
        after_pair()
    return np.array(rows)


def _shared_batch(
    baseline: Loaded, candidate: Loaded, data: DataSet, batch_tokens: int
) -> torch.Tensor:
    ids = timed_batch(baseline, data, batch_tokens)
    if int(ids.max()) >= candidate.model.get_input_embeddings().num_embeddings:
        raise EvalError("the vocabularies differ, so both models cannot be timed on one batch")
    return ids


def timed_batch(baseline: Loaded, data: DataSet, batch_tokens: int) -> torch.Tensor:
    """Return token ids ``(rows, tokens)`` of one length, because kernels differ in the time that
    padding costs them.

    For causal models, the texts are joined and cut into long prompts. Otherwise they are the longer
    half of the first texts, truncated to one length.

    Raises:
        EvalError: there is no text.
    """
    texts = [input_text(item) for item in data.items]
    tokenizer = baseline.tokenizer
    limit = min(tokenizer.model_max_length, baseline.max_tokens, LONGEST)
    encoded = [tokenizer(text, truncation=True, max_length=limit).input_ids for text in texts[:64]]
    if baseline.checkpoint.kind == CAUSAL:
        joined = [token for ids in encoded for token in ids][:batch_tokens]
        limit = max(min(limit, len(joined)), 1)
        encoded = [joined[i : i + limit] for i in range(0, len(joined) - limit + 1, limit)] or [[]]
    length = sorted(map(len, encoded))[len(encoded) // 2]
    encoded = [ids for ids in encoded if len(ids) >= length]
    if not length:
        raise EvalError(f"data set {data.name}: no text to time")
    rows = max(batch_tokens // length, 1)
    ids = torch.tensor([encoded[row % len(encoded)][:length] for row in range(rows)])
    return ids.to(baseline.device)


def _token_seconds(side: Loaded, ids: torch.Tensor, steps: int) -> tuple[float, float]:
    """Return the mean time of each further token, and the time of the prompt with the first one."""
    cache = _cache_of(side, ids, steps)
    times, inputs = [], ids
    _synchronize(side)
    start = time.perf_counter()
    for _ in range(steps + 1):
        output = side.model(input_ids=inputs, past_key_values=cache, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise NoCacheError("decoding needs a cache of keys and values, which the model has not")
        inputs = output.logits[:, -1:].argmax(-1)
        if not times:
            _synchronize(side)
            times.append(time.perf_counter())
    _synchronize(side)
    return (time.perf_counter() - times[0]) / steps, times[0] - start


def _cache_of(side: Loaded, ids: torch.Tensor, steps: int) -> object:
    """Return a cache of constant size for a compiled model, so that it is compiled only once."""
    if not hasattr(side.model.forward, "_torchdynamo_orig_callable"):
        return None
    from transformers import StaticCache

    return StaticCache(config=side.model.config, max_cache_len=ids.shape[1] + steps + 1)


def _forward_seconds(side: Loaded, ids: torch.Tensor) -> float:
    batch = side.inputs(ids)
    _synchronize(side)
    start = time.perf_counter()
    side.model(**batch)
    _synchronize(side)
    return time.perf_counter() - start


def _synchronize(side: Loaded) -> None:
    if side.device.type == "cuda":
        torch.cuda.synchronize(side.device)
