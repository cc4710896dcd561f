"""Quantiles of the divergence of predictions, against numpy and sorted lists."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, rel_entr

from compression_gates.evals.data.items import Labelled
from compression_gates.evals.gates.gate import (
    FAILED,
    INCONCLUSIVE,
    NOT_JUDGED,
    PASSED,
    STRICT,
    Gate,
    verdict_of,
)
from compression_gates.evals.metrics.kl_quantiles import group_quantiles
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.scores import Pair, Scores
from compression_gates.evals.statistics.quantiles import NO_UPPER_BOUND
from tests.evals.scores import logits, scored
from tests.evals.test_token_metrics import DOCUMENTS, TOKENS, candidate, draw, side

SHARES = {"kl_median": 0.5, "kl_p90": 0.9, "kl_p99": 0.99, "kl_p999": 0.999, "kl_max": 1.0}


def read(name, baseline, after, role="text"):
    return METRICS[name].read(Pair(Scores({role: baseline}), Scores({role: after})))


def with_kl(values):
    return side(**{**candidate().measurement.arrays, "kl_forward": np.asarray(values, float)})


@pytest.mark.parametrize(("name", "q"), SHARES.items())
def test_the_quantile_of_tokens_is_that_of_the_sorted_divergences(name, q):
    found = read(name, side(), candidate())
    ordered = sorted(draw(3).tolist())
    expected = ordered[max(math.ceil(q * len(ordered) - 1e-9), 1) - 1]
    assert (found.estimate.value, found.candidate) == (expected, expected)
    assert found.facts["kl_mean"] == pytest.approx(draw(3).mean())
    assert found.facts[name] == expected
    assert found.estimate.clusters == DOCUMENTS
    assert found.estimate.low <= expected <= found.estimate.high
    worst = max(range(DOCUMENTS), key=lambda i: sorted(draw(3)[i * TOKENS : (i + 1) * TOKENS])[
        math.ceil(q * TOKENS - 1e-9) - 1])  # fmt: skip
    assert found.worst.items[0].row == worst + 1


@pytest.mark.parametrize(("name", "q"), SHARES.items())
def test_the_quantile_of_classes(name, q):
    one, two = (log_softmax(logits(seed, 50, 3), axis=1) for seed in (0, 1))
    items = [Labelled(f"t{i}", 0, i) for i in range(50)]
    sides = scored(items, log_probabilities=one), scored(items, log_probabilities=two)
    divergences = rel_entr(np.exp(one), np.exp(two)).sum(1)
    expected = np.quantile(divergences, q, method="inverted_cdf")
    found = read(name, *sides)
    assert found.estimate.value == pytest.approx(expected)
    assert found.worst.items[0].prompt == f"t{divergences.argmax()}"


@pytest.mark.parametrize("name", SHARES)
def test_the_baseline_does_not_diverge_from_itself(name):
    found = read(name, side(), with_kl(np.zeros(DOCUMENTS * TOKENS)))
    assert found.estimate.value == 0.0
    assert verdict_of("c", Gate(name, 0.0), found).met
    assert not found.worst


@settings(max_examples=30)
@given(
    arrays(float, DOCUMENTS * TOKENS, elements=st.floats(0, 50)),
    st.permutations(range(DOCUMENTS)),
    st.sampled_from(list(SHARES)),
)
def test_the_order_of_documents_changes_nothing(values, order, name):
    """Except for the last digits, because sums depend on the order."""
    shuffled = values.reshape(DOCUMENTS, TOKENS)[list(order)].ravel()
    one, two = (read(name, side(), with_kl(x)).estimate for x in (values, shuffled))
    assert one.value == two.value
    assert (one.low, one.high) == (two.low, two.high)


@settings(max_examples=30)
@given(arrays(float, DOCUMENTS * TOKENS, elements=st.floats(0, 50)))
def test_quantiles_rise_with_their_share(values):
    found = [read(name, side(), with_kl(values)).estimate.value for name in SHARES]
    assert found == sorted(found)


def test_a_largest_value_can_break_a_limit_but_never_keep_it():
    found = read("kl_max", side(), candidate())
    largest = draw(3).max()
    assert (found.estimate.low, found.estimate.high) == (largest, math.inf)
    below = verdict_of("c", Gate("kl_max", largest + 0.1), found)
    assert (below.outcome, below.unreliable) == (INCONCLUSIVE, NO_UPPER_BOUND)
    assert below.holds("default")
    assert not below.holds(STRICT)
    above = verdict_of("c", Gate("kl_max", largest - 0.1), found)
    assert above.outcome == FAILED
    assert not above.holds("smoke")


def test_a_quantile_keeps_a_limit_that_its_interval_excludes():
    found = read("kl_median", side(), candidate())
    assert found.estimate.high < 0.2
    assert verdict_of("c", Gate("kl_median", 0.2), found).outcome == PASSED
    assert verdict_of("c", Gate("kl_median", 0.01), found).outcome == FAILED


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_token_that_is_ruled_out_fails_the_largest_value(broken):
    values = draw(3)
    values[17] = broken
    found = read("kl_max", side(), with_kl(values))
    assert verdict_of("c", Gate("kl_max", 0.5), found).outcome == FAILED


@pytest.mark.parametrize("name", SHARES)
def test_nan_fails_every_quantile_and_its_window_is_named(name):
    values = draw(3)
    values[17] = math.nan
    found = read(name, side(), with_kl(values))
    assert verdict_of("c", Gate(name, 50.0), found).outcome == FAILED
    assert found.worst.items[0].row == 17 // TOKENS + 1


def test_a_baseline_that_predicts_nothing_is_not_judged():
    unable = side(nll=np.full(DOCUMENTS * TOKENS, 9.0))
    found = read("kl_p99", unable, candidate())
    assert "no better than chance" in found.not_judged
    assert verdict_of("c", Gate("kl_p99", 1.0), found).outcome == NOT_JUDGED


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-9, 9)), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
)
def test_quantiles_of_groups_are_those_of_each_group(pairs, q):
    groups = np.unique([group for group, _ in pairs], return_inverse=True)[1]
    values = np.array([value for _, value in pairs])
    found = group_quantiles(values, groups, q)
    for group, value in enumerate(found):
        ordered = np.sort(values[groups == group])
        assert value == ordered[max(math.ceil(q * len(ordered) - 1e-9), 1) - 1]
