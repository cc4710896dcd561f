import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from evals.estimate import exact
from evals.simulation import SCENARIOS, coverage, runs
from evals.statistics import (
    accelerated_mean,
    clustered_mean,
    clustered_proportion,
    clustered_share,
    mcnemar,
    median_interval,
    studentized_mean,
)


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


def test_without_gains_its_upper_end_is_wilson_s_and_the_rule_of_three():
    values = np.arange(400) < 6
    found = clustered_share(values, np.arange(400))
    expected = stats.binomtest(6, 400).proportion_ci(0.95, method="wilson")
    none = 1.96**2 / (400 + 1.96**2)
    assert found.high == pytest.approx(expected.high, rel=0.02)
    assert found.low == pytest.approx(6 / 400 - math.hypot(6 / 400 - expected.low, none), rel=0.05)


def test_a_proportion_is_wilson_s():
    from statsmodels.stats.proportion import proportion_confint

    for hits in (9, 20, 100, 191):
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


@pytest.mark.parametrize("rate", [0.001, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.03, 0.05])
def test_a_proportion_covers_at_least_what_it_says_by_enumeration(rate):
    """Every outcome of 200 items that matters, with its probability."""
    covered = 0.0
    for hits in range(60):
        found = clustered_proportion(np.arange(200) < hits, np.arange(200))
        if found.low <= rate <= found.high:
            covered += stats.binom.pmf(hits, 200, rate)
    assert covered >= 0.935


def test_newcombe_s_own_example():
    # Newcombe 1998, "paired data", table III: 36, 12, 2, 0 of 50; method 10 gives 0.0569, 0.3404.
    values = np.repeat([0.0, 1.0, -1.0, 0.0], [36, 12, 2, 0])
    found = clustered_share(values, np.arange(50))
    assert found.value == pytest.approx(0.2)
    # His correlation is that of the two classifications, ours that of losses and gains.
    assert found.low == pytest.approx(0.0569, abs=0.015)
    assert found.high == pytest.approx(0.3404, abs=0.015)


def test_mcnemar_agrees_with_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    for losses in range(12):
        for gains in range(12):
            whole = theirs([[5, losses], [gains, 5]], exact=True).pvalue if losses + gains else 1.0
            point = stats.binom.pmf(min(losses, gains), losses + gains, 0.5)
            # Mid-p takes off the probability of what was seen, counted once of its two tails.
            expected = 1.0 if losses == gains else whole - point
            assert mcnemar(losses, gains) == pytest.approx(expected)


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


def skewed(seed, documents=40):
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(documents), generator.integers(5, 30, documents))
    return generator.gamma(1.0, 1.0, documents)[clusters] + generator.normal(size=len(clusters)), (
        clusters
    )


def test_the_studentized_interval_agrees_with_a_plain_loop():
    values, clusters = skewed(0, 12)
    groups = [values[clusters == g] for g in range(12)]

    def mean_and_error(parts):
        everything = np.concatenate(parts)
        gaps = [float((part - everything.mean()).sum()) for part in parts]
        variance = len(parts) / (len(parts) - 1) * sum(gap**2 for gap in gaps)
        return everything.mean(), math.sqrt(variance) / len(everything)

    mean, error = mean_and_error(groups)
    generator = np.random.default_rng(7)
    ratios = []
    for drawn in generator.integers(0, 12, (1999, 12)):
        again, own = mean_and_error([groups[g] for g in drawn])
        ratios.append((again - mean) / own)
    low, high = np.quantile(ratios, [0.025, 0.975], method="nearest")
    found = studentized_mean(values, clusters, resamples=1999, seed=7)
    assert found.value == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - high * error, mean - low * error))


def test_bca_agrees_with_scipy_on_documents_of_one_item():
    values = np.random.default_rng(2).gamma(1.0, 1.0, 40)
    expected = stats.bootstrap((values,), np.mean, n_resamples=4999, method="BCa", rng=5)
    found = accelerated_mean(values, np.arange(40), resamples=4999, seed=5)
    width = found.high - found.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.05 * width)


@pytest.mark.parametrize("method", [studentized_mean, accelerated_mean])
def test_what_is_drawn_is_drawn_again(method):
    values, clusters = skewed(1)
    state = np.random.get_state()[1].copy()
    one, two = method(values, clusters), method(values, clusters)
    assert (one.low, one.high) == (two.low, two.high)
    other = method(values, clusters, seed=1)
    assert other.low != one.low
    assert np.array_equal(np.random.get_state()[1], state)


def test_the_studentized_interval_leans_to_the_long_tail():
    values, clusters = skewed(3)
    found, plain = studentized_mean(values, clusters), clustered_mean(values, clusters)
    assert found.high - found.value > plain.high - plain.value
    assert found.high - found.value > found.value - found.low


@pytest.mark.parametrize("method", [clustered_mean, studentized_mean, accelerated_mean])
def test_values_that_are_all_alike_have_an_interval_of_no_width(method):
    found = method(np.zeros(20), np.arange(20) // 2)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.p_above(0.1) == 1.0
    assert found.p_above(-0.1) < 1e-11


METHODS = [clustered_mean, studentized_mean, clustered_share, clustered_proportion]


@pytest.mark.parametrize("method", METHODS)
def test_intervals_grow_with_their_confidence_and_hold_the_estimate(method):
    hits = (np.random.default_rng(4).random(120) < 0.2).astype(float)
    found = method(hits, np.arange(120) // 2)
    ends = [found.bounds(level) for level in (0.5, 0.8, 0.95, 0.99, 0.9999, 1 - 1e-9)]
    for (low, high), (wider_low, wider_high) in itertools.pairwise(ends):
        assert wider_low < low < found.value < high < wider_high


@pytest.mark.parametrize("method", METHODS)
def test_the_p_value_is_where_the_interval_leaves_the_limit(method):
    hits = (np.random.default_rng(5).random(150) < 0.2).astype(float)
    found = method(hits, np.arange(150))
    for limit in (0.05, 0.1, 0.14):
        p = found.p_above(limit)
        assert found.bounds(1 - 2 * p * 1.01)[0] >= limit >= found.bounds(1 - 2 * p * 0.99)[0]
    assert found.p_above(found.value) == 1.0
    # Quantiles of resampled zeros and ones have steps, on the safe side.
    smooth = method is not studentized_mean
    assert 0.0249 <= found.p_above(found.low) <= (0.0251 if smooth else 0.04)


def test_p_values_of_an_unchanged_quantity_are_below_a_level_as_often_as_it_says():
    generator = np.random.default_rng(6)
    p_values = []
    for _ in range(1500):
        sizes = generator.integers(5, 20, 60)
        clusters = np.repeat(np.arange(60), sizes)
        values = generator.gamma(4, 0.5, 60)[clusters] - 2 + generator.normal(size=len(clusters))
        p_values.append(studentized_mean(values, clusters, resamples=499).p_above(0.0))
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(
            level, abs=3.5 * math.sqrt(level / 1500)
        )


def test_of_numbers_that_were_counted_the_p_value_is_certain():
    assert exact(2.0).p_above(1.0) == 0.0
    assert exact(2.0).p_above(2.0) == 1.0
    assert math.isnan(clustered_mean([math.nan, 1.0], [0, 1]).p_above(0.0))


USED = {s.name: s for s in SCENARIOS if "10 documents" not in s.name and "0.5%" not in s.name}


@pytest.mark.parametrize("scenario", USED)
def test_coverage_is_near_what_it_says_for_every_interval_that_gates_use(scenario):
    share = next(iter(coverage(USED[scenario], 300, seed=1).values()))
    # Three standard errors of 300 repeats around what the long simulation may show.
    assert share >= 0.935 - 3 * 0.0142
    assert share <= 0.97 + 3 * 0.0099 or "timings" in scenario or "rate of 1.0%" in scenario


def test_an_unchanged_model_raises_no_alarm_and_a_broken_one_fails():
    alarmed, _ = runs(20, 0.0, 858)
    _, failed = runs(5, 0.04, 858)
    assert alarmed <= 1 / 20
    assert failed >= 0.98
