"""Time of baseline and candidate, in interleaved runs of the same batch."""

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
    """Seconds of one forward pass each, until the speedup is told from each limit or time is up.

    The two sides alternate, and so does which of them goes first, so that a drift of the machine's
    speed meets both alike. The caller keeps other work off the device.

    Args:
        baseline, candidate: the two sides.
        data: texts to run.
        protocol: how often, how long and on how many tokens.
        limits: of the speedup, as for :func:`evals.statistics.sequential.repeat_until_decided`.

    Returns:
        ``seconds``, ``(pairs, 2)``: baseline and candidate.

    Raises:
        EvalError: no text, or one that only one side has tokens for.
    """
    sides = (baseline, candidate)
    ids = _ids(baseline, data, protocol.batch_tokens)
    if int(ids.max()) >= candidate.model.get_input_embeddings().num_embeddings:
        raise EvalError("the vocabularies differ: one batch cannot time both models")
    label = f"{candidate.checkpoint.label}: speed"
    numbers = count()
    with tqdm(total=protocol.looks[-1], desc=label, unit="pair", leave=False, disable=None) as bar:

        def measure(pairs: int) -> np.ndarray:
            seconds = np.empty((pairs, 2))
            for row in seconds:
                for side in (0, 1) if next(numbers) % 2 else (1, 0):
                    row[side] = _timed(sides[side], ids)
                bar.update()
            return seconds

        measure(protocol.warmup)
        bar.reset()
        return {"seconds": repeat_until_decided(measure, limits, protocol.budget, protocol.looks)}


def _ids(baseline: Loaded, data: DataSet, batch_tokens: int) -> torch.Tensor:
    """``(rows, tokens)`` of the longer half of the first texts of ``data``, cut to one length:
    padding would cost one kernel more time than another."""
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


def _timed(side: Loaded, ids: torch.Tensor) -> float:
    batch = side.inputs(ids)
    _wait(side)
    start = time.perf_counter()
    side.model(**batch)
    _wait(side)
    return time.perf_counter() - start


def _wait(side: Loaded) -> None:
    if side.device.type == "cuda":
        torch.cuda.synchronize(side.device)
