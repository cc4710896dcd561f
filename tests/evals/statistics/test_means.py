import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import linalg, stats

from compression_gates.evals.statistics.bootstrap import bca_mean
from compression_gates.evals.statistics.estimate import DOCUMENTS, WINDOWS, exact
from compression_gates.evals.statistics.means import clustered_mean, series_mean, studentized_mean
from compression_gates.evals.statistics.quantiles import clustered_quantile
from compression_gates.evals.statistics.ratios import ratio_of_means


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


def bell_and_mccaffrey(values, clusters):
    """CR2 standard error and degrees of freedom of a regression on a constant, by matrices."""
    count = len(values)
    design = np.ones((count, 1))
    bread = np.linalg.inv(design.T @ design)
    annihilator = np.eye(count) - design @ bread @ design.T
    residuals = annihilator @ values
    meat, columns = 0.0, []
    for name in np.unique(clusters):
        inside = np.flatnonzero(clusters == name)
        adjust = linalg.inv(linalg.sqrtm(annihilator[np.ix_(inside, inside)]).real)
        weights = adjust @ design[inside] @ bread
        meat += ((weights.T @ residuals[inside]) ** 2).item()
        columns.append(annihilator[:, inside] @ weights)
    inner = np.hstack(columns)
    eigenvalues = np.linalg.eigvalsh(inner.T @ inner)
    return math.sqrt(meat), eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()


@pytest.mark.parametrize("sizes", [[1, 2, 3], [5, 5, 5, 5], [30, 25, 1, 2, 1, 3], [1, 9]])
def test_errors_and_degrees_of_freedom_are_bell_and_mccaffrey_s(sizes):
    generator = np.random.default_rng(3)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    values = generator.normal(size=len(clusters)) + generator.normal(size=len(sizes))[clusters]
    error, degrees = bell_and_mccaffrey(values, clusters)
    half = stats.t.ppf(0.975, degrees) * error
    found = clustered_mean(values, clusters)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))


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


METHODS = [clustered_mean, studentized_mean, series_mean]


@pytest.mark.parametrize("method", METHODS)
@given(
    st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=30),
    st.floats(-10, 10),
    st.floats(0.1, 10),
)
def test_shifts_and_scales_with_its_values(method, values, shift, scale):
    clusters = np.arange(len(values)) // 2
    one = method(values, clusters)
    two = method(np.array(values) * scale + shift, clusters)
    for name in ("value", "low", "high"):
        expected = getattr(one, name) * scale + shift
        assert getattr(two, name) == pytest.approx(expected, abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
@given(
    st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=3, max_size=40),
    st.lists(st.floats(1e-9, 1 - 1e-9), min_size=2, max_size=5),
)
def test_intervals_hold_the_estimate_and_grow_with_their_confidence(method, values, levels):
    found = method(values, np.arange(len(values)))
    ends = [found.bounds(level) for level in sorted(levels)]
    for (low, high), (wider_low, wider_high) in itertools.pairwise(ends):
        assert wider_low <= low + 1e-9
        assert high - 1e-9 <= wider_high
    assert ends[0][0] - 1e-9 <= found.value <= ends[0][1] + 1e-9


@pytest.mark.parametrize("method", [*METHODS, bca_mean])
def test_one_cluster_proves_nothing_and_nan_stays_nan(method):
    found = method([1.0, 2.0], [0, 0])
    assert (found.value, found.low, found.high) == (1.5, -math.inf, math.inf)
    assert math.isnan(method([1.0, math.nan], [0, 1]).value)
    assert math.isnan(method([math.nan, 1.0], [0, 1]).p_above(0.0))


@pytest.mark.parametrize("method", [*METHODS, bca_mean])
def test_empty_and_mismatched_samples_raise(method):
    with pytest.raises(ValueError, match="empty"):
        method([], [])
    with pytest.raises(ValueError, match="do not match"):
        method([1.0], [0, 1])


@pytest.mark.parametrize("method", [*METHODS, bca_mean])
@pytest.mark.parametrize("documents", [2, 10, 40])
def test_values_that_are_all_zero_are_known_however_few_documents_they_are_of(method, documents):
    found = method(np.zeros(3 * documents), np.arange(3 * documents) // 3)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.unreliable == ""
    assert found.p_above(0.1) == 1.0
    assert found.p_above(-0.1) < 1e-11


@pytest.mark.parametrize("method", [studentized_mean, series_mean])
def test_an_infinite_value_makes_an_infinite_mean(method):
    found = method([0.0] * 40 + [math.inf], np.arange(41))
    assert (found.value, found.low, found.high) == (math.inf, math.inf, math.inf)


def test_negation_turns_the_interval_round():
    found = -clustered_mean([1.0, 2.0, 4.0], [0, 1, 2])
    assert found.low < found.value < found.high < 5
    assert found.value == pytest.approx(-7 / 3)
    assert exact(2.0).map(lambda x: x * 2).value == 4.0


def skewed(seed, documents=40):
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(documents), generator.integers(5, 30, documents))
    return generator.gamma(1.0, 1.0, documents)[clusters] + generator.normal(size=len(clusters)), (
        clusters
    )


def test_it_leans_to_the_long_tail_as_hall_s_transformation_says():
    # Skewed, but not so much that more than Hall's correction is called for.
    values = np.random.default_rng(1).gamma(8.0, 1.0, 200)
    found = studentized_mean(values, np.arange(200))
    error = stats.sem(values)
    deviations = values - values.mean()
    skewness = (deviations**3).sum() / np.square(deviations).sum() ** 1.5
    t = (values.mean() - found.high) / error  # the end at which the transformed t is its quantile
    transformed = t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6
    assert transformed == pytest.approx(stats.t.ppf(0.025, 199))
    assert found.low == pytest.approx(values.mean() - stats.t.ppf(0.975, 199) * error)


def test_a_mirrored_sample_has_a_mirrored_interval():
    values, clusters = skewed(3)
    found, mirrored = studentized_mean(values, clusters), studentized_mean(-values, clusters)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    assert found.high - found.value > found.value - found.low


def test_it_is_never_shorter_than_the_t_interval():
    for seed in range(20):
        values, clusters = skewed(seed)
        found, plain = studentized_mean(values, clusters), clustered_mean(values, clusters)
        assert found.low <= plain.low + 1e-12
        assert found.high >= plain.high - 1e-12


def test_three_changed_documents_of_many_leave_a_finite_interval():
    for changed in (1, 2, 3):
        values = np.zeros(160)
        values[:changed] = [1e-3, 2e-3, 1e-5][:changed]
        found = studentized_mean(values, np.arange(160))
        assert found.value < found.high < 1e-3
        assert found.unreliable == ""


def test_too_few_documents_are_told():
    found = studentized_mean(np.arange(10.0), np.arange(10))
    assert found.unreliable == "intervals are unreliable below 30 documents (got 10)"
    assert studentized_mean(np.arange(30.0), np.arange(30)).unreliable == ""


@given(st.lists(st.integers(90, 110), min_size=25, max_size=35))
def test_documents_are_too_few_only_if_their_number_or_their_lengths_say_so(sizes):
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    reason = studentized_mean(np.arange(len(clusters)) % 7.0, clusters).unreliable
    effective = sum(sizes) ** 2 / sum(size**2 for size in sizes)
    if effective >= 30 or sizes == [sizes[0]] * 30:
        assert reason == ""
    if "(got " in reason:
        assert (
            f"(got {len(sizes)})" in reason if len(sizes) < 30 else " of unequal length" in reason
        )
        assert effective < 30


def test_thirty_documents_of_almost_equal_length_are_enough():
    sizes = [100] * 29 + [101]
    clusters = np.repeat(np.arange(30), sizes)
    assert studentized_mean(np.arange(len(clusters)) % 7.0, clusters).unreliable == ""


def test_few_documents_that_hold_most_items_are_told():
    sizes = np.full(40, 50)
    sizes[:2] = 14000
    clusters = np.repeat(np.arange(40), sizes)
    found = studentized_mean(np.random.default_rng(0).normal(size=len(clusters)), clusters)
    assert found.unreliable == (
        "2 of 40 documents hold 94% of the items: an effective 2.3 documents, and intervals are "
        "unreliable below 30"
    )
    clusters = np.repeat(np.arange(32), np.arange(1, 33))
    assert "(got 32 of unequal length, an effective 24.4)" in (
        studentized_mean(np.random.default_rng(0).normal(size=len(clusters)), clusters).unreliable
    )


def test_a_tail_that_dominates_is_told():
    generator = np.random.default_rng(1)
    values = generator.exponential(size=60) * 1e-9
    values[:3] = [1e-3, 2e-6, 3e-5]
    assert studentized_mean(values, np.arange(60)).unreliable == (
        "1 of 60 documents holds 97% of the total, and intervals of such values are unreliable "
        "below 150 documents"
    )
    values = generator.exponential(size=160) * 1e-9
    values[:20] = generator.exponential(size=20) * 1e-4
    assert studentized_mean(values, np.arange(160)).unreliable == ""


def test_p_values_of_an_unchanged_quantity_are_below_a_level_about_as_often_as_it_says():
    generator = np.random.default_rng(6)
    p_values = []
    for _ in range(1500):
        sizes = generator.integers(5, 20, 60)
        clusters = np.repeat(np.arange(60), sizes)
        values = generator.gamma(4, 0.5, 60)[clusters] - 2 + generator.normal(size=len(clusters))
        p_values.append(studentized_mean(values, clusters).p_above(0.0))
    for level in (0.01, 0.05, 0.2):
        above = np.mean(np.array(p_values) <= level)
        assert 0.2 * level <= above <= level + 3 * math.sqrt(level / 1500)


def test_of_numbers_that_were_counted_the_p_value_is_certain():
    assert exact(2.0).p_above(1.0) == 0.0
    assert exact(2.0).p_above(2.0) == 1.0


def test_the_long_run_error_of_a_series_agrees_with_a_plain_loop():
    generator = np.random.default_rng(2)
    levels = np.cumsum(generator.normal(size=64)) * 0.3  # so that it is the wider of the two
    windows = np.repeat(np.arange(64), generator.integers(2, 9, 64))
    values = levels[windows] + generator.normal(size=len(windows))
    sums = [(values[windows == t] - values.mean()).sum() for t in range(64)]
    count = 4  # 0.3 * 64^(2/3) = 4.8
    squares = []
    for j in range(1, count + 1):
        cosines = [math.cos(math.pi * j * (t + 0.5) / 64) for t in range(64)]
        squares.append((math.sqrt(2 / 64) * np.dot(cosines, sums)) ** 2)
    error = math.sqrt(64 * np.mean(squares)) / len(values)
    half = stats.t.ppf(0.975, count) * error
    found = series_mean(values, windows)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_few_windows_are_told():
    found = series_mean(np.random.default_rng(0).normal(size=100), np.repeat(np.arange(20), 5))
    assert found.unreliable == "intervals are unreliable below 30 windows (got 20)"


def test_bca_agrees_with_scipy_on_documents_of_one_item():
    values = np.random.default_rng(2).gamma(1.0, 1.0, 40)
    expected = stats.bootstrap((values,), np.mean, n_resamples=4999, method="BCa", rng=5)
    found = bca_mean(values, np.arange(40), resamples=4999, seed=5)
    width = found.high - found.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.05 * width)


def test_what_is_drawn_is_drawn_again():
    values, clusters = skewed(1)
    state = np.random.get_state()[1].copy()
    one, two = bca_mean(values, clusters), bca_mean(values, clusters)
    assert (one.low, one.high) == (two.low, two.high)
    assert bca_mean(values, clusters, seed=1).low != one.low
    assert np.array_equal(np.random.get_state()[1], state)


def test_estimates_say_whether_they_count_documents_or_windows():
    values = np.random.default_rng(0).exponential(size=200)
    windows = np.repeat(np.arange(40), 5)
    for of_one_document, unit in ((True, WINDOWS), (False, DOCUMENTS)):
        mean = series_mean if of_one_document else studentized_mean
        for found in (
            mean(values, windows),
            -mean(values, windows).map(math.expm1),
            mean(values, [0] * 200),
            mean(np.zeros(200), windows),
            ratio_of_means(values, values + 0.1, windows, of_one_document),
            ratio_of_means(values, values, windows, of_one_document),
            clustered_quantile(values, windows, 0.5, is_series=of_one_document),
        ):
            assert found.unit == unit
