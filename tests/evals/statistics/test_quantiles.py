import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, quantile_test

from compression_gates.evals.statistics.quantiles import clustered_quantile


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(1, 60),
)
def test_the_quantile_is_the_inverse_of_the_empirical_distribution(values, q, documents):
    clusters = np.arange(len(values)) % documents
    found = clustered_quantile(values, clusters, q)
    assert found.value == np.quantile(values, q, method="inverted_cdf")
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_independent_values_get_the_interval_of_scipys_quantile_test(q):
    values = np.random.default_rng(0).lognormal(size=400)
    found = clustered_quantile(values, np.arange(400), q)
    exact = quantile_test(values, p=q).confidence_interval(0.95)
    ordered = np.sort(values)
    places = [np.searchsorted(ordered, x) for x in (found.low, found.high, exact.low, exact.high)]
    # Wilson's interval of the share and the exact binomial test differ by a few ranks.
    assert abs(places[0] - places[2]) <= 2
    assert abs(places[1] - places[3]) <= 2


@pytest.mark.parametrize(
    ("q", "documents"), [(0.5, 100), pytest.param(0.9, 100, marks=pytest.mark.full), (0.99, 300)]
)
def test_the_interval_of_clustered_values_covers_the_quantile(q, documents):
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(documents), 30)
    covered = 0
    for _ in range(300):
        shared = np.repeat(generator.normal(size=documents), 30)
        values = math.sqrt(0.2) * shared + math.sqrt(0.8) * generator.normal(size=len(clusters))
        found = clustered_quantile(values, clusters, q)
        covered += found.low <= norm.ppf(q) <= found.high
    assert covered >= 0.91 * 300  # three standard errors below 95 %


def test_windows_of_one_document_get_a_wider_interval():
    generator = np.random.default_rng(2)
    noise = generator.normal(size=300)
    level = np.convolve(noise, np.ones(30) / math.sqrt(30), mode="same")
    values = np.repeat(level, 20) + generator.normal(size=6000)
    windows = np.repeat(np.arange(300), 20)
    independent = clustered_quantile(values, windows, 0.5)
    series = clustered_quantile(values, windows, 0.5, is_series=True)
    assert series.value == independent.value
    assert series.high - series.low > 1.5 * (independent.high - independent.low)


def test_a_quantile_beyond_the_sample_has_no_upper_end():
    found = clustered_quantile(np.arange(100.0), np.arange(100), 0.999)
    assert found.value == 99.0
    assert found.high == math.inf
    assert math.isfinite(found.low)


def test_a_nan_and_a_single_document_have_no_interval():
    assert math.isnan(clustered_quantile([1.0, math.nan], [0, 1], 0.5).low)
    single = clustered_quantile([1.0, 2.0, 3.0], [0, 0, 0], 0.5)
    assert (single.value, single.low, single.high) == (2.0, -math.inf, math.inf)


@pytest.mark.parametrize("q", [0.0, 1.0, math.nan])
def test_q_outside_of_0_to_1_raises(q):
    with pytest.raises(ValueError, match="q has to be between 0 and 1"):
        clustered_quantile([1.0], [0], q)
