"""Time of baseline and candidate, in interleaved runs of the same batch."""

import time

import numpy as np
import torch
from tqdm import trange

from evals.data import DataSet, input_text
from evals.errors import EvalError
from evals.scoring.loading import Loaded
from evals.scoring.protocols import SpeedProtocol


@torch.inference_mode()
def time_pairs(
    baseline: Loaded, candidate: Loaded, data: DataSet, protocol: SpeedProtocol
) -> dict[str, np.ndarray]:
    """Seconds ``(pairs, 2)`` of one forward pass each, baseline and candidate.

    The two alternate, and so does who goes first, so that a drift of the machine's speed meets
    both alike. The caller keeps other work off the device.

    Returns:
        ``seconds``.
    """
    sides = (baseline, candidate)
    ids = _ids(baseline, data, protocol.batch_tokens)
    if int(ids.max()) >= candidate.model.get_input_embeddings().num_embeddings:
        raise EvalError("the vocabularies differ: one batch cannot time both models")
    seconds = np.empty((protocol.pairs, 2))
    label = f"{candidate.checkpoint.label}: speed"
    for pair in trange(
        -protocol.warmup, protocol.pairs, desc=label, unit="pair", leave=False, disable=None
    ):
        for side in (0, 1) if pair % 2 else (1, 0):
            elapsed = _timed(sides[side], ids)
            if pair >= 0:
                seconds[pair, side] = elapsed
    return {"seconds": seconds}


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
