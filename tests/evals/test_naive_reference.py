"""The divergence of a candidate relative to its naive counterpart's."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from compression_gates.evals.gates.gate import (
    DEFAULT,
    FAILED,
    INCONCLUSIVE,
    NOT_JUDGED,
    PASSED,
    SMOKE,
    STRICT,
    Gate,
    verdict_of,
)
from compression_gates.evals.metrics.naive_reference import naive_reference
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.scores import NO_NAIVE, Pair
from tests.evals.scores import scored
from tests.evals.test_token_metrics import DOCUMENTS, TOKENS, draw, side

GATE = Gate("naive_reference", 1.0)


def judged(candidate, naive, limit=1.0, **arrays):
    nll = side()["nll"] if np.isfinite(candidate).all() else candidate
    sides = side(), side(js=candidate, nll=nll), side(js=naive)
    result = naive_reference(*sides, "rtn-int4 in 28 layers")
    return result, verdict_of("c", Gate("naive_reference", limit), result)


def test_the_ratio_is_that_of_the_mean_divergences():
    result, _ = judged(draw(1), draw(2))
    assert result.estimate.value == pytest.approx(draw(1).mean() / draw(2).mean(), rel=1e-5)
    assert result.facts == {
        "js": pytest.approx(draw(1).mean()), "naive_js": pytest.approx(draw(2).mean()),
    }  # fmt: skip
    assert result.reasons == (
        "its divergence from the baseline is 0.0983 nats, and that of its naive counterpart 0.0907 "
        "nats (rtn-int4 in 28 layers)",
    )


def test_a_candidate_that_is_its_naive_counterpart_passes_every_policy():
    _, verdict = judged(draw(1), draw(1))
    assert (verdict.value, verdict.low, verdict.high) == (1.0, 1.0, 1.0)
    assert verdict.outcome == PASSED
    assert all(verdict.holds(policy) for policy in (DEFAULT, STRICT, SMOKE))


def test_only_a_proven_excess_fails():
    noise = draw(3)
    _, proven = judged(1.5 * noise, noise)
    assert proven.outcome == FAILED
    assert not proven.holds(DEFAULT)
    _, within = judged(1.5 * noise, noise, limit=2.0)
    assert within.outcome == PASSED
    below, above = sorted((draw(1), draw(2)), key=np.mean)
    _, uncertain = judged(above, below)
    assert uncertain.value > 1
    assert uncertain.outcome == INCONCLUSIVE
    assert uncertain.holds(DEFAULT)
    assert not uncertain.holds(STRICT)


def test_a_candidate_and_a_counterpart_without_divergence_are_equal():
    zeros = np.zeros(DOCUMENTS * TOKENS)
    assert judged(zeros, zeros)[1].value == 1.0
    assert judged(draw(1), zeros)[1].outcome == FAILED
    assert judged(zeros, draw(1))[1].outcome == PASSED


def test_values_that_are_not_numbers_fail_the_candidate_but_not_for_its_counterpart():
    nan = draw(1)
    nan[5] = math.nan
    assert judged(nan, draw(2))[1].outcome == FAILED
    assert math.isnan(judged(nan, draw(2))[1].value)
    assert judged(draw(2), nan)[1].outcome == NOT_JUDGED


def test_without_a_counterpart_it_is_not_judged():
    pair = Pair(SimpleNamespace(get=None), SimpleNamespace(get=None))
    assert METRICS["naive_reference"].read(pair) is NO_NAIVE
    assert verdict_of("c", GATE, NO_NAIVE).outcome == NOT_JUDGED


def test_classes_are_compared_by_their_probabilities():
    generator = np.random.default_rng(0)
    items = side().data.items
    logits = generator.normal(size=(len(items), 2))

    def classes(noise):
        values = logits + noise * generator.normal(size=logits.shape)
        return scored(items, log_probabilities=values - np.logaddexp(*values.T)[:, None])

    baseline, near, far = (classes(noise) for noise in (0.0, 0.05, 0.5))
    failed = naive_reference(baseline, far, near, "")
    assert verdict_of("c", GATE, failed).outcome == FAILED
    assert failed.worst.items[0].unit == "nats more"
    assert verdict_of("c", GATE, naive_reference(baseline, near, far, "")).outcome == PASSED


@pytest.mark.parametrize(
    ("limit", "problem"), [(0.9, "at least 1"), (20, "20 times"), (1, ""), (2, "")]
)
def test_a_limit_that_is_probably_a_mistake_is_explained(limit, problem):
    found = METRICS["naive_reference"].limit_problem(limit)
    assert problem in found
    assert bool(problem) == bool(found)
