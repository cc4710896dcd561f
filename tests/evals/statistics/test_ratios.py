import math

import numpy as np
import pytest
from scipy.stats import t as student

from compression_gates.evals.statistics.means import series_mean, studentized_mean
from compression_gates.evals.statistics.ratios import ratio_of_means

DOCUMENTS = 80


def draw(seed, documents=DOCUMENTS, each=5):
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(documents), each)
    difficulty = generator.gamma(4.0, size=documents)[clusters]
    return *(difficulty * generator.gamma(2.0, size=(2, len(clusters)))), clusters


def test_the_interval_of_symmetric_values_is_fiellers():
    """Against the closed form, the roots of ``(a - r b)^2 = t^2 var(a - r b) / n``."""
    generator = np.random.default_rng(0)
    half = generator.normal(size=(2, 200))
    a, b = np.concatenate([5 + half, 5 - half], axis=1)  # no skewness in any combination
    found = ratio_of_means(a, b, np.arange(400))
    (vaa, vab), (_, vbb) = np.cov(a, b) / 400
    quantile = student.ppf(0.975, 399) ** 2
    roots = np.roots([
        b.mean() ** 2 - quantile * vbb,
        -2 * (a.mean() * b.mean() - quantile * vab),
        a.mean() ** 2 - quantile * vaa,
    ])  # fmt: skip
    assert found.value == pytest.approx(a.mean() / b.mean())
    assert (found.low, found.high) == pytest.approx(tuple(sorted(roots)), rel=1e-6)


@pytest.mark.parametrize(("one_document", "interval"), [(False, studentized_mean),
                                                        (True, series_mean)])  # fmt: skip
def test_the_interval_is_that_of_the_paired_differences(one_document, interval):
    a, b, clusters = draw(1)
    found = ratio_of_means(a, b, clusters, one_document)
    assert found.low < found.value < found.high
    assert interval(a - found.low * b, clusters).low == pytest.approx(0, abs=1e-6)
    assert interval(a - found.high * b, clusters).high == pytest.approx(0, abs=1e-6)
    assert found.unreliable == interval(a - b, clusters).unreliable
    doubled = ratio_of_means(2 * a, b, clusters, one_document)
    assert (doubled.low, doubled.high) == pytest.approx((2 * found.low, 2 * found.high))


@pytest.mark.parametrize("factor", [1.0, 0.5, 3.0])
def test_proportional_values_have_an_exact_ratio(factor):
    _, b, clusters = draw(2)
    found = ratio_of_means(factor * b, b, clusters)
    assert (found.low, found.value, found.high) == pytest.approx((factor,) * 3, abs=1e-9)
    if factor == 1.0:
        assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)
        assert not found.unreliable


def test_a_denominator_that_may_be_zero_has_a_finite_but_unreliable_interval():
    generator = np.random.default_rng(0)
    b = np.zeros(60)
    b[:2] = 1.0, 3.0
    a = b + 0.01 * generator.random(60)
    found = ratio_of_means(a, b, np.arange(60))
    assert found.low < found.value < found.high < math.inf
    assert found.unreliable


def test_the_denominator_is_checked_at_the_level_of_the_interval():
    """Values whose 95 % interval excludes 0, and whose 99 % interval contains it."""
    generator = np.random.default_rng(0)
    b = np.zeros(100)
    b[:5] = 1.0, 2.0, 1.5, 1.2, 1.8
    a = b + 0.01 * generator.random(100)
    clusters = np.arange(100)
    bottom = studentized_mean(b, clusters)
    assert bottom.bounds(0.99)[0] <= 0 < bottom.low
    assert not ratio_of_means(a, b, clusters).unreliable
    proof = ratio_of_means(a, b, clusters, confidence_level=0.99)
    assert proof.unreliable == "the interval of the denominator contains 0"
    assert proof.high < math.inf


def test_one_sided_false_alarms_have_the_nominal_rate():
    """The probability that the lower end exceeds the true ratio is 2.5 %."""
    alarms = 0
    for seed in range(400):
        a, b, clusters = draw(seed + 10, documents=60, each=2)
        alarms += studentized_mean(a - b, clusters).low > 0
    assert alarms <= 18  # 97.5 % of runs with a rate of 2.5 % have at most 16
    a, b, clusters = draw(10, documents=60, each=2)
    ratio = ratio_of_means(a, b, clusters)
    assert (ratio.low > 1) == (studentized_mean(a - b, clusters).low > 0)


def test_few_documents_are_unreliable_and_a_single_one_has_no_interval():
    a, b, clusters = draw(3, documents=12)
    assert "below 30 documents" in ratio_of_means(a, b, clusters).unreliable
    single = ratio_of_means(a, b, np.zeros(len(a), int))
    assert single.value == pytest.approx(a.mean() / b.mean())
    assert (single.low, single.high) == (-math.inf, math.inf)


def test_a_value_that_is_not_a_number_gives_none():
    a, b, clusters = draw(4)
    a[3] = math.nan
    assert math.isnan(ratio_of_means(a, b, clusters).value)
    assert math.isnan(ratio_of_means(a, b, clusters).low)


def test_a_ratio_to_zero_is_undefined():
    a, _, clusters = draw(5)
    with pytest.raises(ValueError, match="not positive"):
        ratio_of_means(a, 0 * a, clusters)
