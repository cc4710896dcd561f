"""The sequential interval of a median against exact computations and simulated measurements."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compression_gates.evals.metrics.speedup import speedup
from compression_gates.evals.statistics.sequential import (
    FAILURE_P,
    LOOKS,
    is_settled,
    median_ratio,
    repeat_until_decided,
    sequential_median,
)

LEVELS = (0.5, 0.95, 0.999)


def ends(n: int, confidence: float) -> int:
    """Which order statistic the interval of ``n`` values starts at, counted from 1."""
    low = sequential_median(np.arange(1, n + 1)).bounds(confidence)[0]
    return 0 if low == -math.inf else int(low)


def pairs_of(ratio: float, count: int = 1000) -> np.ndarray:
    return np.tile([ratio, 1.0], (count, 1))


@pytest.mark.parametrize("confidence", LEVELS)
def test_the_interval_holds_the_median_at_all_looks_at_once(confidence):
    """The chance that it misses at any look, summed exactly over all paths of a random walk: how
    many of the first values lie below the true median is Binomial(n, 1/2)."""
    alive, missed = np.array([1.0]), 0.0
    for n in range(1, LOOKS[-1] + 1):
        alive = (np.append(alive, 0.0) + np.append(0.0, alive)) / 2
        if n in LOOKS:
            k = ends(n, confidence)
            below = np.arange(n + 1)
            outside = (below < k) | (below > n - k)
            missed += alive[outside].sum()
            alive[outside] = 0.0
    assert missed + alive.sum() == pytest.approx(1.0)
    assert missed <= 1 - confidence
    if confidence == 0.95:
        assert missed > 0.02  # and not far below, so that pairs are not wasted


@given(n=st.integers(1, 400), confidence=st.sampled_from(LEVELS), looks=st.integers(1, 6))
def test_it_is_the_shortest_symmetric_interval_of_its_level(n, confidence, looks):
    found = sequential_median(np.arange(1, n + 1), looks, confidence)
    alpha = (1 - confidence) / looks
    k = 0 if found.low == -math.inf else int(found.low)
    assert found.high == (math.inf if k == 0 else n + 1 - k)
    assert 2 * stats.binom.cdf(k - 1, n, 0.5) <= alpha * (1 + 1e-9)
    assert 2 * stats.binom.cdf(k, n, 0.5) >= alpha * (1 - 1e-9)


def test_no_value_has_no_median():
    with pytest.raises(ValueError, match="empty sample"):
        sequential_median([])


def test_a_slowdown_is_measured_until_it_stands_out_among_thousands_of_gates():
    """15 pairs alone give no p-value below 3e-5."""
    found = repeat_until_decided(lambda n: pairs_of(0.6, n), [0.8], budget=60)
    assert len(found) == 30
    assert (-median_ratio(found)).p_above(-0.8) <= FAILURE_P
    assert (-median_ratio(found[:15])).p_above(-0.8) > 1e-5


@pytest.mark.parametrize(("ratio", "pairs"), [(1.0, 8), (0.8, 8), (0.7999, 30)])
def test_it_stops_at_the_first_look_that_decides(ratio, pairs):
    assert len(repeat_until_decided(lambda n: pairs_of(ratio, n), [0.8], budget=60)) == pairs


def test_it_goes_on_until_every_limit_is_decided_and_no_longer_than_the_last_look():
    values = itertools.cycle([0.85, 0.95])

    def measure(n):
        return np.array([[next(values), 1.0] for _ in range(n)])

    assert len(repeat_until_decided(measure, [0.8], budget=60)) == 8
    assert len(repeat_until_decided(measure, [0.8, 0.9], budget=60)) == LOOKS[-1]
    assert len(repeat_until_decided(measure, [], budget=60)) == 8


@given(seconds=st.floats(0.01, 10.0), budget=st.floats(0.0, 100.0))
def test_no_look_after_the_first_is_begun_that_would_exceed_the_budget(seconds, budget):
    now = [0.0]
    values = itertools.cycle([0.79, 0.81])

    def measure(n):
        now[0] += n * seconds
        return np.array([[next(values), 1.0] for _ in range(n)])

    found = repeat_until_decided(measure, [0.8], budget, clock=lambda: now[0])
    expected = max([LOOKS[0], *(n for n in LOOKS if n * seconds <= budget * (1 - 1e-9))])
    allowed = max([LOOKS[0], *(n for n in LOOKS if n * seconds <= budget * (1 + 1e-9))])
    assert expected <= len(found) <= allowed


def test_what_is_settled():
    assert is_settled(pairs_of(1.0, 15), [0.8])
    assert is_settled(pairs_of(1.0, 15), [])
    assert not is_settled(pairs_of(1.0, 15), [0.8, 1.1])
    assert not is_settled(pairs_of(0.6, 30), [0.8])
    assert is_settled(pairs_of(0.6, 30), [0.8], failed=True)
    assert not is_settled(pairs_of(0.6, 15), [0.8], failed=True)


def disturbed(rng: np.random.Generator, n: int, ratio: float) -> np.ndarray:
    """Times that are lognormal and now and then disturbed, with heavy tails."""
    noise = rng.lognormal(0.0, 0.03, (n, 2)) * np.exp(0.05 * rng.standard_t(2, (n, 2)))
    return noise / [1.0, ratio]


@pytest.mark.parametrize(
    ("ratio", "failed"), [(0.95, (0, 0)), (0.85, (0, 0)), (0.8, (0, 5)), (0.6, (200, 200))]
)
def test_only_a_slowdown_fails(ratio, failed):
    """At the limit itself the two-sided level allows 5 of 200. The median of 15 pairs failed half
    of these runs at 0.8, and 3 in 100 at 0.85."""
    count = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        pairs = repeat_until_decided(lambda n, rng=rng: disturbed(rng, n, ratio), [0.8], 1e9)
        count += speedup(pairs).estimate.high < 0.8
    assert failed[0] <= count <= failed[1]
