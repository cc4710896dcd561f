"""Exact masks against the threshold that public codes use, which prunes every tie."""

import time

import torch

from compression_gates.compression.pruning.patterns import Unstructured, prune_mask

LIMIT = 1.0
"""An exact, stable mask costs at most this times the sort and comparison of a threshold."""


def test_exact_mask_against_a_threshold(benchmark):
    weight = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    scores = weight.abs()

    def threshold() -> float:
        start = time.perf_counter()
        scores <= scores.sort(dim=1).values[:, 512:513]  # noqa: B015 - timed
        return time.perf_counter() - start

    def exact() -> float:
        start = time.perf_counter()
        prune_mask(scores, Unstructured(0.5), per_row=True, tie_break=scores)
        return time.perf_counter() - start

    threshold(), exact()
    ratios = sorted(exact() / threshold() for _ in range(9))
    benchmark.extra_info["ratio to a threshold"] = round(ratios[4], 2)
    benchmark.pedantic(exact, rounds=5)
    assert ratios[4] <= LIMIT
