"""Timing of baseline and candidate in interleaved runs of the same batch."""

import time
from collections.abc import Iterable
from itertools import count

import numpy as np
import torch
from tqdm import tqdm

from compression_gates.evals.data.items import DataSet, input_text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.protocols import SpeedProtocol
from compression_gates.evals.statistics.sequential import repeat_until_decided


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
        ``seconds`` ``(pairs, 2)``: the times of baseline and candidate.

    Raises:
        EvalError: there is no text, or the candidate's vocabulary lacks tokens of the text.
    """
    sides = (baseline, candidate)
    ids = _timed_batch(baseline, data, protocol.batch_tokens)
    if int(ids.max()) >= candidate.model.get_input_embeddings().num_embeddings:
        raise EvalError("the vocabularies differ, so both models cannot be timed on one batch")
    label = f"{candidate.checkpoint.label}: speed"
    numbers = count()  # of the pairs, warmup included
    with tqdm(total=protocol.looks[-1], desc=label, unit="pair", leave=False, disable=None) as bar:

        def measure(pairs: int) -> np.ndarray:
            seconds = np.empty((pairs, 2))
            for row in seconds:
                for side in (0, 1) if next(numbers) % 2 else (1, 0):
                    row[side] = _forward_seconds(sides[side], ids)
                bar.update()
            return seconds

        measure(protocol.warmup)
        bar.reset()
        return {"seconds": repeat_until_decided(measure, limits, protocol.budget, protocol.looks)}


def _timed_batch(baseline: Loaded, data: DataSet, batch_tokens: int) -> torch.Tensor:
    """Return token ids ``(rows, tokens)`` of the longer half of the first texts, truncated to one
    length, because kernels differ in the time that padding costs them."""
    texts = [input_text(item) for item in data.items]
    tokenizer = baseline.tokenizer
    limit = min(tokenizer.model_max_length, baseline.max_tokens, 512)
    encoded = [tokenizer(text, truncation=True, max_length=limit).input_ids for text in texts[:64]]
    length = sorted(map(len, encoded))[len(encoded) // 2]
    encoded = [ids for ids in encoded if len(ids) >= length]
    if not length:
        raise EvalError(f"data set {data.name}: no text to time")
    rows = max(batch_tokens // length, 1)
    ids = torch.tensor([encoded[row % len(encoded)][:length] for row in range(rows)])
    return ids.to(baseline.device)


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
