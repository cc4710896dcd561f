import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from evals.statistics import clustered_mean, clustered_share, exact, median_interval


def test_with_one_item_a_cluster_it_is_the_t_interval():
    values = np.random.default_rng(0).normal(size=30)
    found = clustered_mean(values, np.arange(30))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_clusters_of_one_size_are_a_t_interval_over_their_means():
    values = np.random.default_rng(1).normal(size=(20, 7))
    values += np.random.default_rng(2).normal(size=(20, 1))
    found = clustered_mean(values.ravel(), np.repeat(np.arange(20), 7))
    expected = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert (found.n, found.clusters) == (140, 20)


def test_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        sizes = generator.integers(1, 20, size=40)
        clusters = np.repeat(np.arange(40), sizes)
        values = generator.normal(size=40)[clusters] + generator.normal(size=len(clusters))
        found = clustered_mean(values, clusters)
        hits += found.low <= 0 <= found.high
    assert 930 <= hits <= 975


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=30),
    st.floats(-10, 10),
    st.floats(0.1, 10),
)
def test_shifts_and_scales_with_its_values(values, shift, scale):
    clusters = np.arange(len(values)) // 2
    one = clustered_mean(values, clusters)
    two = clustered_mean(np.array(values) * scale + shift, clusters)
    for name in ("value", "low", "high"):
        expected = getattr(one, name) * scale + shift
        assert getattr(two, name) == pytest.approx(expected, abs=1e-6)


def test_one_cluster_proves_nothing_and_nan_stays_nan():
    found = clustered_mean([1.0, 2.0], [0, 0])
    assert (found.value, found.low, found.high) == (1.5, -math.inf, math.inf)
    assert math.isnan(clustered_mean([1.0, math.nan], [0, 1]).value)


def test_empty_and_mismatched_samples_raise():
    with pytest.raises(ValueError, match="empty"):
        clustered_mean([], [])
    with pytest.raises(ValueError, match="do not match"):
        clustered_mean([1.0], [0, 1])
    with pytest.raises(ValueError, match="empty"):
        median_interval([])


def test_median_interval_is_exact():
    # For n = 10 the 2nd and 9th values cover the median with 1 - 2 * 11 / 1024 = 97.9 %.
    found = median_interval(range(1, 11))
    assert (found.value, found.low, found.high) == (5.5, 2.0, 9.0)
    assert median_interval([1.0, 2.0, 3.0]).high == math.inf


@given(st.integers(1, 60))
def test_median_interval_reaches_its_confidence_and_no_shorter_one_does(n):
    found = median_interval(np.arange(1, n + 1))
    if math.isinf(found.low):
        assert 1 - 2 * stats.binom.cdf(0, n, 0.5) < 0.95
        return
    rank = int(found.low)
    assert found.high == n + 1 - rank
    assert 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5) >= 0.95
    assert 1 - 2 * stats.binom.cdf(rank, n, 0.5) < 0.95


def test_negation_turns_the_interval_round():
    found = -clustered_mean([1.0, 2.0, 4.0], [0, 1, 2])
    assert found.low < found.value < found.high < 5
    assert found.value == pytest.approx(-7 / 3)
    assert exact(2.0).map(lambda x: x * 2).value == 4.0


def test_no_event_is_no_proof_of_none():
    found = clustered_share(np.zeros(100), np.arange(100))
    t = stats.t.ppf(0.975, 99)
    bound = t**2 / (100 + t**2)
    assert found.value == 0.0
    assert (found.low, found.high) == pytest.approx((-bound, bound))


def test_without_gains_it_holds_wilson_s_interval():
    values = np.arange(400) < 6
    found = clustered_share(values, np.arange(400))
    expected = stats.binomtest(6, 400).proportion_ci(0.95, method="wilson")
    assert found.high == pytest.approx(expected.high, rel=0.02)
    assert found.low <= expected.low


@pytest.mark.parametrize("loss", [0.002, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("gain", [0.0, 0.01, 0.1])
def test_rare_losses_and_gains_are_covered(loss, gain):
    generator = np.random.default_rng(4)
    hits = 0
    for _ in range(1000):
        drawn = generator.random(300)
        values = (drawn < loss).astype(float) - (drawn > 1 - gain)
        found = clustered_share(values, np.arange(300))
        hits += found.low <= loss - gain <= found.high
    assert hits >= 935


def test_many_events_leave_the_interval_about_as_it_is():
    values = np.random.default_rng(5).random(300) < 0.3
    wide, plain = (f(values, np.arange(300)) for f in (clustered_share, clustered_mean))
    assert wide.value == plain.value
    assert wide.high - wide.low < 1.05 * (plain.high - plain.low)


def test_one_document_and_nan_prove_nothing():
    assert clustered_share([0.0, 1.0], [0, 0]).high == math.inf
    assert math.isnan(clustered_share([0.0, math.nan], [0, 1]).value)
