"""Scoring against its floor: the bare forward passes that no scorer can do without."""

import time

import torch

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.models.loading import load
from compression_gates.evals.scoring.protocols import TextProtocol
from compression_gates.evals.scoring.text import score_text
from compression_gates.fixtures.suite.datasets import data_set
from compression_gates.fixtures.suite.sources import DataSource
from compression_gates.fixtures.world.shipped import MODELS

ROUNDS = 5
LIMIT = 2.5
"""Scoring with divergence over the whole vocabulary takes at most this times the floor."""


def test_text_against_bare_forwards(benchmark, tmp_path):
    loaded = load(open_checkpoint(MODELS / "llama-tiny"))
    data = data_set("passages", DataSource("passages", count=160), "causal")
    reference = tmp_path / "reference.npy"
    score_text(loaded, data, TextProtocol(), keep=reference)
    batches = [
        loaded.tokenizer([item.text for item in data.items[start : start + 64]],
                         padding=True, padding_side="right", return_tensors="pt")
        for start in range(0, len(data.items), 64)
    ]  # fmt: skip

    @torch.inference_mode()
    def floor() -> float:
        start = time.perf_counter()
        for batch in batches:
            loaded.model(**batch, use_cache=False).logits.float().log_softmax(-1)
        return time.perf_counter() - start

    def scoring() -> float:
        start = time.perf_counter()
        score_text(loaded, data, TextProtocol(), reference=reference)
        return time.perf_counter() - start

    floor(), scoring()
    ratios = sorted(scoring() / floor() for _ in range(ROUNDS))
    benchmark.extra_info["ratio to the floor"] = round(ratios[ROUNDS // 2], 2)
    benchmark.pedantic(scoring, rounds=ROUNDS)
    assert ratios[ROUNDS // 2] <= LIMIT
