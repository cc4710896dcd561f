"""Scores of logits against float64, for every shape of prediction."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr

from compression_gates.evals.scoring import comparison
from compression_gates.evals.scoring.comparison import DISTANCES, LIKELIHOOD, score_logits

COLUMNS = (*LIKELIHOOD, *DISTANCES)
SHAPES = ("peaked", "usual", "flat", "two levels")


def rows(shape: str, vocabulary: int, count: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, vocabulary, generator=generator)
    return {
        "peaked": noise * 40,
        "usual": noise * 3 + 11.3,
        "flat": torch.full_like(noise, 3.3),
        "two levels": (torch.arange(vocabulary) % 2 * -7.3).repeat(count, 1),
    }[shape]


def expected(a: torch.Tensor, b: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Return the scores by the formulas of scipy."""
    log_p, log_q = (log_softmax(side.double().numpy(), axis=1) for side in (a, b))
    p, q = np.exp(log_p), np.exp(log_q)
    nll = -log_q[np.arange(len(log_q)), targets.numpy()]
    tv = np.abs(p - q).sum(1) / 2
    agree = log_p.argmax(1) == log_q.argmax(1)
    js = jensenshannon(p, q, axis=1) ** 2
    return np.stack((nll, js, rel_entr(p, q).sum(1), rel_entr(q, p).sum(1), tv, agree), 1)


@pytest.mark.parametrize("vocabulary", [2, 3, 127, 1000, 32_000, 256_000])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [1e-3, 0.1, 1.0, 10.0])
def test_equals_float64(vocabulary, shape, noise):
    a = rows(shape, vocabulary)
    b = a + rows("usual", vocabulary, seed=1) * noise / 3
    targets = torch.arange(4) % vocabulary
    scores = score_logits(b, targets, a)
    np.testing.assert_allclose(scores, expected(a, b, targets), rtol=0, atol=1e-6)
    alone = score_logits(b, targets)
    np.testing.assert_allclose(alone, scores[:, :1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    a, b = (rows("usual", 50, seed=seed).to(dtype) for seed in (0, 1))
    targets = torch.arange(4)
    np.testing.assert_allclose(
        score_logits(b, targets, a), expected(a, b, targets), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("vocabulary", [2, 1000])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [0, 1])
def test_equal_rows_are_at_distance_zero(vocabulary, shape, masked):
    a = rows(shape, vocabulary)
    a[:, :masked] = -math.inf
    scores = score_logits(a, torch.ones(4, dtype=torch.long), a.clone())
    assert not scores[:, 1:5].any()
    assert scores[:, 5].all()


def test_entries_without_probability():
    a, b = (rows("usual", 1000, seed=seed) for seed in (0, 1))
    a[:2, ::3] = b[:2, ::3] = -math.inf  # impossible for both
    a[2, 5] = -math.inf
    b[3, 5] = -math.inf
    targets = torch.full((4,), 7)
    scores = score_logits(b, targets, a)
    np.testing.assert_allclose(scores, expected(a, b, targets), rtol=0, atol=1e-6)
    assert scores[2, COLUMNS.index("kl_backward")] == math.inf
    assert scores[3, COLUMNS.index("kl_forward")] == math.inf
    assert score_logits(b, torch.full((4,), 5))[3] == math.inf


def test_nan_in_one_row_is_only_in_that_row():
    a, b = (rows("usual", 300, seed=seed) for seed in (0, 1))
    b[1, 7] = math.nan
    scores = score_logits(b, torch.zeros(4, dtype=torch.long), a)
    assert scores[1, :5].isnan().all()
    assert scores[[0, 2, 3]].isfinite().all()


def test_distances_are_over_the_entries_that_both_vocabularies_have():
    a, b = (rows("usual", 640, seed=seed) for seed in (0, 1))
    b[0, 630] = 60.0  # an entry that the baseline lacks takes all of the probability
    targets = torch.arange(4)
    wider, narrower = score_logits(b, targets, a[:, :576]), score_logits(b[:, :576], targets, a)
    shared = expected(a[:, :576], b[:, :576], targets)
    for scores in (wider, narrower):
        np.testing.assert_allclose(scores[:, 1:5], shared[:, 1:5], rtol=0, atol=1e-6)
    np.testing.assert_allclose(wider[:, 0], expected(a, b, targets)[:, 0], rtol=0, atol=1e-6)
    assert not wider[0, 5]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4000))
def test_rows_do_not_depend_on_what_they_are_computed_with(count, threads, step):
    a, b = (rows("usual", 200, count, seed) for seed in (0, 1))
    targets = torch.arange(count)
    whole = score_logits(b, targets, a)
    before = torch.get_num_threads(), comparison._CPU_STEP
    try:
        torch.set_num_threads(threads)
        comparison._CPU_STEP = step
        assert torch.equal(score_logits(b, targets, a), whole)
    finally:
        torch.set_num_threads(before[0])
        comparison._CPU_STEP = before[1]
