import math
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import (
    CRITICAL,
    DEFAULT,
    FAILED,
    INCONCLUSIVE,
    NOT_JUDGED,
    PASSED,
    SMOKE,
    STRICT,
    SUPPORTING,
    Gate,
    verdict_of,
)
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.statistics.estimate import NO_ESTIMATE, Estimate
from compression_gates.evals.statistics.means import clustered_mean, studentized_mean
from compression_gates.evals.statistics.sequential import sequential_median

COSTS = [name for name, metric in METRICS.items() if metric.at_most]
GAINS = [name for name, metric in METRICS.items() if not metric.at_most]


def reading(value, low=None, high=None, n=100):
    estimate = Estimate(value, value if low is None else low, value if high is None else high, n, n)
    return MetricResult(estimate, baseline=1.0, candidate=2.0)


@pytest.mark.parametrize(
    ("low", "value", "high", "met", "outcome"),
    [
        (0.00, 0.01, 0.02, True, PASSED),
        (0.00, 0.01, 0.05, True, PASSED),
        (0.00, 0.04, 0.06, True, INCONCLUSIVE),
        (0.04, 0.06, 0.08, False, INCONCLUSIVE),
        (0.051, 0.06, 0.08, False, FAILED),
        (-math.inf, 0.01, math.inf, True, INCONCLUSIVE),
    ],
)
def test_three_outcomes_of_a_cost(low, value, high, met, outcome):
    for metric in COSTS:
        verdict = verdict_of("c", Gate(metric, 0.05), reading(value, low, high))
        assert (verdict.met, verdict.outcome) == (met, outcome)
        mirrored = verdict_of("c", Gate(GAINS[0], -0.05), reading(-value, -high, -low))
        assert (mirrored.met, mirrored.outcome) == (met, outcome)


@given(st.floats(max_value=0, allow_infinity=False, allow_nan=False), st.sampled_from(COSTS))
def test_better_than_the_baseline_never_fails_a_drift(value, metric):
    assert verdict_of("c", Gate(metric, 0.0), reading(value)).holds(STRICT)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("field", ["value", "low", "high"])
def test_nan_fails(metric, field):
    numbers = {"value": 1.0, "low": 1.0, "high": 1.0, field: math.nan}
    verdict = verdict_of("c", Gate(metric, 1.0), reading(**numbers))
    assert not verdict.holds(DEFAULT)
    assert verdict.outcome == FAILED


def test_nothing_is_rounded():
    limit = 0.05
    assert verdict_of("c", Gate("f1_drop", limit), reading(limit)).met
    assert not verdict_of("c", Gate("f1_drop", limit), reading(math.nextafter(limit, 1))).met


def test_strict_wants_proof():
    verdict = verdict_of("c", Gate("f1_drop", 0.05), reading(0.04, 0.0, 0.06))
    assert verdict.holds(DEFAULT)
    assert not verdict.holds(STRICT)


def test_smoke_fails_only_what_is_disproven():
    unsure = verdict_of("c", Gate("f1_drop", 0.05), reading(0.06, 0.04, 0.08))
    broken = verdict_of("c", Gate("f1_drop", 0.05), reading(0.08, 0.06, 0.1))
    nothing = verdict_of("c", Gate("f1_drop", 0.05), reading(math.nan, math.nan, math.nan))
    assert unsure.holds(SMOKE)
    assert not unsure.holds(DEFAULT)
    assert not broken.holds(SMOKE)
    assert not nothing.holds(SMOKE)


def test_what_nothing_can_tell_passes_by_its_estimate_alone_even_under_smoke():
    one = verdict_of(
        "c", Gate("js_divergence", 0.01), MetricResult(clustered_mean([0.6, 0.7], [0, 0]), 0, 1)
    )
    assert not one.holds(SMOKE)
    assert not one.holds(STRICT)


def test_few_documents_prove_nothing():
    few = studentized_mean(np.linspace(0.001, 0.002, 10), range(10))
    many = studentized_mean(np.linspace(0.001, 0.002, 40), range(40))
    verdicts = [
        verdict_of("c", Gate("js_divergence", 0.1), MetricResult(x, 0, 0)) for x in (few, many)
    ]
    assert [v.outcome for v in verdicts] == [INCONCLUSIVE, PASSED]
    assert [v.holds(STRICT) for v in verdicts] == [False, True]
    assert [v.holds(DEFAULT) for v in verdicts] == [True, True]


def test_few_documents_near_the_limit_disprove_nothing_and_only_smoke_lets_them_through():
    few = studentized_mean(np.linspace(0.085, 0.15, 10), range(10))
    verdict = verdict_of("c", Gate("js_divergence", 0.1), MetricResult(few, 0, 0))
    assert verdict.low > 0.1
    assert (verdict.outcome, verdict.p) == (INCONCLUSIVE, 1.0)
    assert [verdict.holds(policy) for policy in (DEFAULT, STRICT, SMOKE)] == [False, False, True]


def test_few_documents_far_beyond_the_limit_disprove_it():
    few = studentized_mean(np.linspace(0.5, 0.6, 10), range(10))
    verdict = verdict_of("c", Gate("js_divergence", 0.1), MetricResult(few, 0, 0))
    assert verdict.outcome == FAILED
    assert verdict.p < 1e-3
    assert not verdict.holds(SMOKE)


NOTHING_MEASURED = MetricResult(NO_ESTIMATE, 0.0, 0.0, not_judged="no kernels for it here")


def test_what_is_not_judged_fails_under_strict_alone():
    verdict = verdict_of("c", Gate("speedup", 0.8), NOTHING_MEASURED)
    assert verdict.outcome == NOT_JUDGED
    assert [verdict.holds(policy) for policy in (DEFAULT, SMOKE, STRICT)] == [True, True, False]


def test_a_noisy_measurement_fails_only_where_the_regression_is_proven():
    slow = replace(reading(0.78), estimate=sequential_median([0.7] * 5 + [0.78] * 5 + [0.9] * 5))
    proven = replace(reading(0.7), estimate=sequential_median(np.linspace(0.6, 0.7, 15)))
    verdicts = [verdict_of("c", Gate("speedup", 0.8), one) for one in (slow, proven)]
    assert [v.holds(DEFAULT) for v in verdicts] == [True, False]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_p_value_is_that_of_the_promise_being_kept(sign):
    from scipy import stats

    values = np.random.default_rng(0).normal(0.3, 1.0, 50)
    found = clustered_mean(values * sign, np.arange(50))
    metric = "f1_drop" if sign > 0 else "speedup"
    verdict = verdict_of("c", Gate(metric, 0.1 * sign), MetricResult(found, 0.0, 0.0))
    expected = stats.ttest_1samp(values, 0.1, alternative="greater").pvalue
    assert verdict.p == pytest.approx(expected, rel=2e-3)


def test_no_item_is_an_error():
    with pytest.raises(EvalError, match="was measured on no item"):
        verdict_of("c", Gate("f1_drop", 0.05), reading(0.0, n=0))


@pytest.mark.parametrize("metric", METRICS)
def test_a_change_is_shown_as_candidate_minus_baseline(metric):
    shown = METRICS[metric]
    assert shown.drop == metric.endswith("_drop")
    if shown.drop:
        assert shown.show(0.1333, 0.02) == "-13.33 pt"
        assert shown.show(-0.001, 0.02) == "+0.10 pt"
        assert shown.show_limit(0.02) == "≥ -2.00 pt"
        assert shown.show_interval(0.104, 0.167, 0.02) == "-16.7 to -10.4 pt"
    else:
        assert shown.show_limit(0.5)[0] == ("≤" if shown.at_most else "≥")


def test_a_rise_of_perplexity_has_a_sign_and_what_has_no_sense_has_none():
    perplexity, js, flips = (METRICS[m] for m in ("perplexity_drift", "js_divergence", "flips"))
    assert perplexity.show(0.0217, 0.05) == "+2.17%"
    assert perplexity.show_limit(0.05) == "≤ +5.00%"
    assert (js.show(0.0046, 0.001), js.show_limit(0.001)) == ("0.0046 nats", "≤ 0.0010 nats")
    assert (flips.show(0.073, 0.03), flips.show_limit(0.03)) == ("7.30%", "≤ 3.00%")


@given(
    st.sampled_from(list(METRICS)),
    st.floats(-1, 1, allow_nan=False),
    st.floats(0.001, 0.002) | st.floats(-1, 1, allow_nan=False),
    st.floats(0, 0.3),
)
def test_the_limit_and_the_interval_have_the_sense_of_the_value(metric, value, half, limit):
    """What is shown keeps the shown limit exactly where the verdict says so."""
    verdict = verdict_of(
        "c", Gate(metric, limit), reading(value, value - abs(half), value + abs(half))
    )
    shown, sign = METRICS[metric], METRICS[metric].show_limit(limit)[0]
    change = shown.change(value)
    bound = shown.change(limit)
    assert verdict.met == (change <= bound if sign == "≤" else change >= bound)
    low, high = shown.show_interval(verdict.low, verdict.high, limit, bare=True).split(" to ")
    assert float(low.rstrip("%x")) <= float(high.rstrip("%x"))


@pytest.mark.parametrize(("metric", "sign"), [("kl_p999", 1), ("speedup", -1)])
def test_an_infinite_end_that_refutes_nothing_does_not_fail_without_a_proof(metric, sign):
    """The estimate breaks the limit, but the finite end of its interval keeps it."""

    def verdict(low, high, tier=CRITICAL, clusters=100):
        low, high = sorted((sign * low, sign * high))
        estimate = Estimate(sign * 1.34, low, high, 1000, clusters)
        found = MetricResult(estimate, 0.0, 0.0)
        return verdict_of("c", Gate(metric, sign * 1.2, tier=tier), found)

    half = verdict(0.19, math.inf)
    assert (half.outcome, half.met, half.has_interval) == (INCONCLUSIVE, False, True)
    assert half.holds(SMOKE)
    assert half.holds(DEFAULT) == METRICS[metric].sequential
    for policy in (DEFAULT, SMOKE, STRICT):
        assert verdict(0.19, math.inf, SUPPORTING).holds(policy)
        # The end that would prove that the limit is broken is the infinite one.
        assert not verdict(-math.inf, 1.5, SUPPORTING).holds(policy)
        assert not verdict(-math.inf, math.inf, SUPPORTING).holds(policy)
        # A single document has no interval, also where one of its ends is a bound of the values.
        assert not verdict(0.0, math.inf, SUPPORTING, clusters=1).holds(policy)
    assert verdict(1.3, math.inf, SUPPORTING).outcome == FAILED


@pytest.mark.parametrize("policy", [DEFAULT, STRICT, SMOKE])
@pytest.mark.parametrize(("metric", "value"), [("flips", -math.inf), ("speedup", math.inf)])
def test_a_value_that_is_infinitely_good_fails(metric, value, policy):
    """Only a mistake in a metric can give it."""
    verdict = verdict_of("m", Gate(metric, 0.5), reading(value))
    assert verdict.outcome == FAILED
    assert not verdict.holds(policy)
