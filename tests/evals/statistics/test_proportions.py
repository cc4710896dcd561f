import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from compression_gates.evals.statistics.means import clustered_mean
from compression_gates.evals.statistics.proportions import (
    clustered_proportion,
    clustered_score_change,
)


def test_no_event_ends_at_the_mid_p_limit():
    found = clustered_score_change(np.zeros(100), np.arange(100))
    assert found.value == 0.0
    # With half of the probability of no event, which is what was seen.
    assert stats.binom.pmf(0, 100, found.high) / 2 == pytest.approx(0.025)
    assert found.low == -found.high
    assert found.high == pytest.approx(0.0295, abs=1e-4)


def test_without_gains_it_is_wilson_s_or_the_wider_t_interval():
    values = np.arange(400) < 6
    found = clustered_score_change(values, np.arange(400))
    expected = stats.binomtest(6, 400).proportion_ci(0.95, method="wilson")
    none = 1 - 0.05 ** (1 / 400)
    assert found.high == pytest.approx(expected.high, rel=0.02)
    mover = 6 / 400 - math.hypot(6 / 400 - expected.low, none)
    assert found.low == pytest.approx(min(mover, clustered_mean(values, np.arange(400)).low))


def test_many_losses_and_gains_are_zou_and_donner_s_or_the_t_interval():
    """MOVER with statsmodels' Wilson intervals of the two shares."""
    from statsmodels.stats.proportion import proportion_confint

    losses, gains, n = 60, 30, 300
    values = np.repeat([1.0, -1.0, 0.0], [losses, gains, n - losses - gains])
    found = clustered_score_change(values, np.arange(n))
    t = stats.t.ppf(0.975, n - 1)
    level = 2 * stats.norm.sf(t)
    ends = [
        # The sample variance is that of one item less.
        proportion_confint(events * (n - 1) / n, n - 1, level, method="wilson")
        for events in (losses, gains)
    ]
    p, q = losses / n, gains / n
    phi = -math.sqrt(p * q / ((1 - p) * (1 - q)))
    dl, dg = p - ends[0][0], ends[1][1] - q
    ul, ug = ends[0][1] - p, q - ends[1][0]
    half = t * stats.sem(values)
    below = max(half, math.sqrt(dl**2 - 2 * phi * dl * dg + dg**2))
    above = max(half, math.sqrt(ul**2 - 2 * phi * ul * ug + ug**2))
    assert (found.low, found.high) == pytest.approx((p - q - below, p - q + above))


def test_newcombe_s_own_example():
    # Newcombe 1998, "paired data", table III: 36, 12, 2, 0 of 50; method 10 gives 0.0569, 0.3404.
    values = np.repeat([0.0, 1.0, -1.0, 0.0], [36, 12, 2, 0])
    found = clustered_score_change(values, np.arange(50))
    assert found.value == pytest.approx(0.2)
    # His correlation is that of the two classifications, ours that of losses and gains.
    assert found.low == pytest.approx(0.0569, abs=0.015)
    assert found.high == pytest.approx(0.3404, abs=0.015)


MIDDLE = [pytest.param(loss, marks=pytest.mark.full) for loss in (0.01, 0.05)]


@pytest.mark.parametrize("loss", [0.002, *MIDDLE, 0.03, 0.3])
@pytest.mark.parametrize("gain", [0.0, 0.01, 0.1])
def test_rare_losses_and_gains_are_covered(loss, gain):
    generator = np.random.default_rng(4)
    hits = 0
    for _ in range(1000):
        drawn = generator.random(300)
        values = (drawn < loss).astype(float) - (drawn > 1 - gain)
        found = clustered_score_change(values, np.arange(300))
        hits += found.low <= loss - gain <= found.high
    assert hits >= 930


@pytest.mark.parametrize("rate", [0.005, 0.01, 0.02, 0.0295, 0.03, 0.031, 0.035, 0.04, 0.06, 0.1])
def test_losses_alone_are_covered_by_enumeration(rate):
    covered = 0.0
    for losses in range(40):
        found = clustered_score_change(np.arange(100) < losses, np.arange(100))
        if found.low <= rate <= found.high:
            covered += stats.binom.pmf(losses, 100, rate)
    assert covered >= 0.935


def test_many_events_leave_the_interval_about_as_it_is():
    values = np.random.default_rng(5).random(300) < 0.3
    wide, plain = (f(values, np.arange(300)) for f in (clustered_score_change, clustered_mean))
    assert wide.value == plain.value
    assert wide.low <= plain.low < plain.high <= wide.high
    assert wide.high - wide.low < 1.05 * (plain.high - plain.low)


def test_scores_that_all_move_a_little_get_an_interval_like_student_s():
    generator = np.random.default_rng(0)
    for values in (generator.normal(0.0, 0.02, 200), generator.choice([-0.02, 0.02], 200)):
        found, plain = (f(values, np.arange(200)) for f in (clustered_score_change, clustered_mean))
        assert found.low <= plain.low < plain.high <= found.high
        assert found.high - found.low < 1.2 * (plain.high - plain.low)
        assert found.high < 0.02


def test_a_few_scores_that_move_far_are_rare_events():
    values = np.zeros(200)
    values[:4] = [0.9, 0.8, 1.0, 0.7]
    values[4:180] = 0.001
    found, plain = (f(values, np.arange(200)) for f in (clustered_score_change, clustered_mean))
    assert found.high > plain.high


def test_documents_that_share_a_fate_are_the_sample_size_where_few_change():
    # Two of 30 documents lost all of their 20 items, as two of 30 items would have been lost.
    values = np.repeat(np.arange(30) < 2, 20)
    found = clustered_score_change(values, np.repeat(np.arange(30), 20))
    alone = clustered_score_change(np.arange(30) < 2, np.arange(30))
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), rel=0.02)
    # Five documents lost one item each: that no document lost two says little with so few.
    spread = np.zeros((30, 20))
    spread[:5, 0] = 1.0
    rare = clustered_score_change(spread.ravel(), np.repeat(np.arange(30), 20))
    assert rare.high > 0.05


@pytest.mark.parametrize("method", [clustered_score_change, clustered_proportion])
def test_few_documents_of_several_items_are_told_unless_nothing_changed(method):
    hits = np.arange(60) % 7 == 0
    documents = np.arange(60) // 3
    reason = "intervals are unreliable below 30 documents (got 20)"
    assert method(hits, documents).unreliable == reason
    assert method(np.zeros(60), documents).unreliable == ""
    assert method(hits, np.arange(60)).unreliable == ""


def test_a_proportion_is_wilson_s():
    from statsmodels.stats.proportion import proportion_confint

    for hits in (20, 100, 180):
        found = clustered_proportion(np.arange(200) < hits, np.arange(200))
        t, z = stats.t.ppf(0.975, 199), stats.norm.ppf(0.975)
        level = 1 - 2 * stats.norm.sf(t)
        # With t for z, and of one item less, as the sample variance has it.
        expected = proportion_confint(hits * 199 / 200, 199, 1 - level, method="wilson")
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
        assert t > z


def test_a_proportion_of_rare_events_is_clopper_and_pearson_s():
    for hits in (0, 1, 7, 193, 199, 200):
        found = clustered_proportion(np.arange(200) < hits, np.arange(200))
        expected = stats.binomtest(hits, 200).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_rare_events_in_documents_get_korn_and_graubard_s_degrees_of_freedom():
    from statsmodels.stats.proportion import proportion_confint

    # 2 of 30 documents hit in all of their 20 items: an effective 30 items.
    hits = np.repeat(np.arange(30) < 2, 20)
    found = clustered_proportion(hits, np.repeat(np.arange(30), 20))
    size = 30 * (stats.t.ppf(0.975, 599) / stats.t.ppf(0.975, 29)) ** 2
    expected = proportion_confint(2 / 30 * size, size, method="beta")
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rate", [0.001, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.03, 0.05])
def test_a_proportion_covers_at_least_what_it_says_by_enumeration(rate):
    """Every outcome of 200 items that matters, with its probability."""
    covered = 0.0
    for hits in range(60):
        found = clustered_proportion(np.arange(200) < hits, np.arange(200))
        if found.low <= rate <= found.high:
            covered += stats.binom.pmf(hits, 200, rate)
    assert covered >= 0.935


METHODS = [clustered_score_change, clustered_proportion]


@pytest.mark.parametrize("method", METHODS)
def test_one_document_and_nan_prove_nothing(method):
    assert method([0.0, 1.0], [0, 0]).high == math.inf
    assert math.isnan(method([0.0, math.nan], [0, 1]).value)
    with pytest.raises(ValueError, match="empty"):
        method([], [])


@pytest.mark.parametrize("method", METHODS)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 1.0]), st.integers(0, 5)), min_size=2, max_size=40
    ),
    st.lists(st.floats(1e-9, 1 - 1e-9), min_size=2, max_size=5),
)
def test_intervals_hold_the_estimate_and_grow_with_their_confidence(method, items, levels):
    values, clusters = zip(*items, strict=True)
    found = method(values, clusters)
    if found.clusters == 1:
        return
    ends = [found.bounds(level) for level in sorted(levels)]
    for (low, high), (wider_low, wider_high) in itertools.pairwise(ends):
        assert wider_low <= low + 1e-12
        assert high - 1e-12 <= wider_high
    assert ends[0][0] - 1e-9 <= found.value <= ends[0][1] + 1e-9


@pytest.mark.parametrize("method", [*METHODS, clustered_mean])
def test_the_p_value_is_where_the_interval_leaves_the_limit(method):
    hits = (np.random.default_rng(5).random(150) < 0.2).astype(float)
    found = method(hits, np.arange(150))
    for limit in (0.05, 0.1, 0.14):
        p = found.p_above(limit)
        assert found.bounds(1 - 2 * p * 1.01)[0] >= limit >= found.bounds(1 - 2 * p * 0.99)[0]
    assert found.p_above(found.value) == 1.0
    assert 0.0249 <= found.p_above(found.low) <= 0.0251
