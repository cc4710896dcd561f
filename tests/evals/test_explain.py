"""What a case that does not pass says."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from compression_gates.evals.data.items import DataSet, Prompt
from compression_gates.evals.gates.explain import explain
from compression_gates.evals.gates.gate import DEFAULT, SMOKE, STRICT, Gate, verdict_of
from compression_gates.evals.metrics.regressions import regression, worst_items
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.statistics.estimate import NO_ESTIMATE, WINDOWS, Estimate, estimate
from compression_gates.evals.statistics.largest import largest
from compression_gates.evals.statistics.means import clustered_mean, studentized_mean
from compression_gates.evals.statistics.proportions import clustered_score_change

DATA = DataSet("q", tuple(Prompt(f"Context.\nWho is {i}?\nAnswer:", "a", i) for i in range(9)))


def reading(value, low, high, n=480, clusters=240, **fields):
    fields = {"baseline": 1.0, "candidate": 1.0 - value, **fields}
    return MetricResult(normal(value, low, high, n, clusters), **fields)


def normal(value, low, high, n, clusters):
    """An estimate with normal quantiles at every confidence level."""

    def bounds(level):
        z = norm.isf((1 - level) / 2) / norm.isf(0.025)
        return value - z * (value - low), value + z * (high - value)

    return replace(estimate(value, bounds, n, clusters), low=low, high=high)


def told(metric, limit, found, policy=DEFAULT):
    gate = Gate(metric, limit)
    return explain(verdict_of("m-wanda", gate, found), gate, found, "pytest x", policy)


def test_a_failure_says_what_was_promised_and_measured_in_one_sense():
    worst = worst_items([0, 1, 0, 1, 0, 0, 1, 1, 1], lambda i: regression(
        DATA, i, expected="a", baseline="a", candidate=f"b{i}"))  # fmt: skip
    found = reading(0.1333, 0.104, 0.167, worst=worst)
    assert told("exact_match_drop", 0.02, found).splitlines() == [
        "exact match -13.33 pt (limit -2.00 pt)",
        "  promised   exact match falls by at most 2.00 pt",
        "  measured   -13.33 pt, 95% interval -16.7 to -10.4 pt (n = 480 in 240 documents)",
        "  baseline   100.00%, candidate 86.67%",
        "  worst 1    row 2: 'Who is 1?', expected 'a', baseline 'a', candidate 'b1'",
        "  worst 2    row 4: 'Who is 3?', expected 'a', baseline 'a', candidate 'b3'",
        "  worst 3    row 7: 'Who is 6?', expected 'a', baseline 'a', candidate 'b6'",
        "             2 more items got worse",
        "  rerun      pytest x",
    ]


@pytest.mark.parametrize(
    ("metric", "limit", "found", "line"),
    [
        ("js_divergence", 0.005, reading(0.0329, 0.03, 0.036),
         "JS divergence 0.0329 nats (limit 0.0050 nats)"),
        ("perplexity_drift", 0.05, reading(0.0805, 0.07, 0.09),
         "perplexity +8.05% (limit +5.00%)"),
        ("speedup", 0.8, reading(0.6, 0.5, 0.7), "speed 0.60x (limit 0.80x)"),
        ("speedup", 0.8, reading(0.79920174, 0.799, 0.7999), "speed 0.799x (limit 0.80x)"),
        ("f1_drop", 0.02, reading(0.024, 0.005, 0.043),
         "F1 -2.40 pt (limit -2.00 pt), inconclusive"),
        ("f1_drop", 0.02, reading(math.nan, math.nan, math.nan), "F1 is not a number"),
    ],
)  # fmt: skip
def test_the_first_line_says_it_in_a_few_words(metric, limit, found, line):
    text = told(metric, limit, found)
    assert text.splitlines()[0] == line
    assert "m-wanda" not in text.splitlines()[0]


BOTH = 1 + norm.isf(0.2) / norm.isf(0.025)
"""Sum of the quantiles of the interval and of a power of 80 %, in half widths of the interval."""


def test_not_proven_is_not_failed_and_says_what_would_settle_it():
    found = reading(0.0, -0.019, 0.0225)
    text = told("exact_match_drop", 0.02, found, STRICT)
    first, count = told_count(text)
    assert first == (
        "exact match not proven: +0.00 pt, 95% interval -2.2 to +1.9 pt against -2.00 pt; about N "
        "items (now 480) would settle it, assuming a true value of +0.00 pt"
    )
    assert count == pytest.approx(480 * (BOTH * 0.0225 / 0.02) ** 2, rel=0.02)
    assert "failed" not in text


def told_count(text):
    """The first line of a message with N in place of the number that would settle it."""
    first = text.splitlines()[0]
    (count,) = re.findall(r"about ([\d,]+) ", first)
    return first.replace(f"about {count}", "about N"), int(count.replace(",", ""))


@pytest.mark.parametrize(
    ("metric", "limit", "found", "what", "count"),
    [
        ("perplexity_drift", 0.5, reading(0.48, 0.45, 0.51, 90_000, 40),
         "about N documents (now 40) would settle it, assuming a true value of +48.00%",
         40 * 1.5**2),
        ("perplexity_drift", 0.5,
         replace(reading(0, 0, 0), estimate=replace(normal(0.48, 0.45, 0.51, 90_000, 40),
                                                    unit=WINDOWS)),
         "about N windows (now 40) would settle it, assuming a true value of +48.00%",
         40 * 1.5**2),
        ("speedup", 0.5, reading(0.52, 0.49, 0.55, 15, 15),
         "about N timed pairs (now 15) would settle it, assuming a true value of 0.52x",
         15 * 1.5**2),
    ],
)  # fmt: skip
def test_what_more_are_needed_of_depends_on_the_metric(metric, limit, found, what, count):
    first, needed = told_count(told(metric, limit, found, STRICT))
    assert first.endswith(what)
    assert needed == pytest.approx(count * BOTH**2, rel=0.03)


def test_no_number_is_given_if_the_interval_depends_on_several_counts():
    parts = [normal(0.01, -0.01, 0.03, 480, 240), normal(0.0, -0.04, 0.04, 100, 100)]
    for metric, limit, found in (
        ("weighted_score", 0.5, reading(0.52, 0.49, 0.55)),
        ("repetition_rise", 0.02, replace(reading(0, 0, 0), estimate=largest(parts))),
    ):
        first = told(metric, limit, found, STRICT).splitlines()[0]
        assert first.endswith("more data are needed")


@pytest.mark.parametrize("value", [0.02, 0.024])
def test_no_number_of_items_settles_in_its_favour_what_lies_at_or_beyond_the_limit(value):
    first = told("f1_drop", 0.02, reading(value, 0.005, 0.043), STRICT).splitlines()[0]
    assert "not proven" in first
    assert first.endswith("so more data would not prove that it is kept")
    assert "would settle it" not in first


def test_as_many_items_as_are_suggested_settle_it_in_most_samples():
    generator = np.random.default_rng(0)
    few = generator.normal(0.0, 0.2, 400)
    few = clustered_mean(few - few.mean(), np.arange(400))
    verdict = verdict_of("c", Gate("f1_drop", 0.015), MetricResult(few, 0.0, 0.0))
    assert verdict.needed > 400
    documents = np.arange(verdict.needed)
    proven = [
        clustered_mean(generator.normal(0.0, 0.2, len(documents)), documents).high <= 0.015
        for _ in range(400)
    ]
    assert 0.72 < np.mean(proven) < 0.88


def test_an_unreliable_interval_gives_its_reason_and_no_number_of_items():
    few = studentized_mean(np.linspace(0.001, 0.002, 10), range(10))
    text = told("js_divergence", 0.1, MetricResult(few, 0.0, 0.0015), STRICT)
    reason = "intervals are unreliable below 30 documents (got 10)"
    assert text.splitlines()[0].endswith(f"against 0.1000 nats; {reason}")
    beyond = MetricResult(studentized_mean(np.linspace(0.085, 0.15, 10), range(10)), 0.0, 0.12)
    assert f"note       inconclusive: {reason}" in told("js_divergence", 0.1, beyond)


def test_the_policy_and_what_changed_are_said():
    facts = {"worse": 7.0, "better": 2.0, "mcnemar_p": 0.109}
    found = MetricResult(
        clustered_score_change([1.0] * 2 + [0.0] * 8, range(10)), 1.0, 0.8, facts=facts
    )
    text = told("exact_match_drop", 0.02, found, SMOKE)
    assert "by at most 2.00 pt; the smoke policy fails only if the whole interval is beyond" in text
    assert "changed    7 worse, 2 better (McNemar's mid-p test over documents: p = 0.11)" in text
    assert "(sign mid-p test over documents: p = 0.11)" in told("rouge1_drop", 0.02, found)
    text = told("exact_match_drop", 0.02, found, STRICT)
    assert "by at most 2.00 pt; the strict policy requires it of the whole interval" in text


def test_what_was_not_judged_says_why():
    found = MetricResult(NO_ESTIMATE, 0.0, 0.0, not_judged="no kernels for it here")
    text = told("speedup", 0.8, found, STRICT)
    assert text.startswith("speed not judged: no kernels for it here\n")
    assert "measured" not in text


def test_a_number_that_was_counted_has_no_interval_and_one_document_has_none():
    assert "measured   0.98x\n" in told("compression_ratio", 1.0, replace(
        reading(0.98, 0.98, 0.98), estimate=Estimate(0.98, 0.98, 0.98, 1, 1)))  # fmt: skip
    one = reading(0.5, -math.inf, math.inf, 7, 1)
    assert "measured   0.5000 nats, no interval (n = 7)" in told("js_divergence", 0.1, one)


def test_an_interval_with_one_end_is_shown():
    found = reading(1.34, 0.19, math.inf, 500, 50)
    text = told("kl_p999", 1.2, found)
    assert (
        "measured   1.3400 nats, 95% interval 0.1900 to inf nats (n = 500 in 50 documents)" in text
    )
    assert "note       inconclusive: the limit is inside the interval" in text
    one = told("kl_p999", 1.2, reading(1.34, -math.inf, math.inf, 500, 1))
    assert "note       inconclusive: no interval; the point estimate breaks the limit" in one


def test_a_tier_or_policy_that_requires_a_proof_names_what_decides_without_an_interval():
    text = told("js_divergence", 0.1, reading(0.5, -math.inf, math.inf, 7, 1), SMOKE)
    assert "only if the whole interval is beyond, or the estimate if there is no interval" in text
