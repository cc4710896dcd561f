"""Change of the correct token's probability and total variation distance, against plain numpy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

from compression_gates.evals.data.items import Labelled
from compression_gates.evals.gates.gate import FAILED, PASSED, Gate, verdict_of
from compression_gates.evals.metrics.correct_probability import (
    correct_probability_drop,
    correct_probability_p99_drop,
    correct_probability_rms,
)
from compression_gates.evals.metrics.total_variation import total_variation
from tests.evals.scores import logits, scored
from tests.evals.test_token_metrics import DOCUMENTS, TOKENS, candidate, draw, side

METRICS = (correct_probability_drop, correct_probability_rms, correct_probability_p99_drop)
N = DOCUMENTS * TOKENS
LOSSES = arrays(float, N, elements=st.floats(0, 20))


def change() -> np.ndarray:
    return np.exp(-candidate()["nll"]) - np.exp(-side()["nll"])


def test_the_mean_the_root_mean_square_and_the_quantile_are_those_of_the_changes():
    mean, rms, quantile = (metric(side(), candidate()) for metric in METRICS)
    assert mean.estimate.value == pytest.approx(-change().mean())
    assert (mean.baseline, mean.candidate) == (
        pytest.approx(np.exp(-side()["nll"]).mean()),
        pytest.approx(np.exp(-candidate()["nll"]).mean()),
    )
    assert mean.items.estimate().value == pytest.approx(mean.estimate.value, abs=1e-6)
    assert rms.estimate.value == pytest.approx(math.sqrt((change() ** 2).mean()))
    lowest = np.sort(change())
    assert quantile.estimate.value == pytest.approx(-lowest[N - math.ceil(0.99 * N)])
    for found in (mean, rms, quantile):
        assert found.estimate.low < found.estimate.value < found.estimate.high
        assert found.facts["change_mean"] == pytest.approx(change().mean())
        assert found.facts["change_p1"] == np.quantile(change(), 0.01, method="inverted_cdf")
        assert "of the correct token's probability" in found.worst.items[0].line()


@pytest.mark.parametrize("metric", METRICS)
def test_the_baseline_does_not_change(metric):
    found = metric(side(), side())
    assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0.0, 0.0, 0.0)
    assert verdict_of("c", Gate(metric.__name__, 0.01), found).outcome == PASSED


@given(LOSSES, arrays(float, N, elements=st.floats(0, 1)))
def test_a_higher_probability_never_fails_a_drop(losses, factors):
    better = side(nll=losses * factors)
    for metric in (correct_probability_drop, correct_probability_p99_drop):
        found = metric(side(nll=losses), better)
        if not found.not_judged:
            assert found.estimate.value <= 0
            assert verdict_of("c", Gate(metric.__name__, 0.0), found).met


@settings(max_examples=25)
@given(LOSSES, LOSSES, st.permutations(range(DOCUMENTS)))
def test_the_order_of_documents_changes_nothing(before, after, order):
    def shuffled(values):
        return values.reshape(DOCUMENTS, TOKENS)[list(order)].ravel()

    for metric in METRICS:
        one = metric(side(nll=before), side(nll=after))
        two = metric(side(nll=shuffled(before)), side(nll=shuffled(after)))
        assert one.not_judged == two.not_judged
        for name in ("value", "low", "high"):
            ends = (getattr(found.estimate, name) for found in (one, two))
            assert next(ends) == pytest.approx(next(ends), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("metric", METRICS)
def test_a_loss_that_is_not_a_number_fails(metric):
    losses = side()["nll"].copy()
    losses[5] = math.nan
    found = metric(side(), side(nll=losses))
    assert verdict_of("c", Gate(metric.__name__, 0.99), found).outcome == FAILED


@pytest.mark.parametrize("metric", METRICS)
def test_a_token_that_is_ruled_out_is_a_drop_to_zero(metric):
    losses = np.full(N, 0.5)
    losses[5] = math.inf
    found = metric(side(nll=np.full(N, 0.5)), side(nll=losses))
    assert math.isfinite(found.estimate.value)
    assert found.worst.items[0].row == 1


def test_total_variation_of_tokens_is_the_mean_of_the_measured_distances():
    found = total_variation(side(), candidate())
    assert found.estimate.value == pytest.approx(draw(6).mean())
    assert found.facts["total_variation"] == found.candidate
    assert "of the probability per token" in found.worst.items[0].line()


@given(st.integers(0, 1000), st.floats(0, 30))
def test_one_minus_total_variation_is_the_acceptance_rate(seed, spread):
    """Which is the sum of the smaller probabilities (Leviathan et al. 2023, Corollary 3.6)."""
    one, two = (log_softmax(logits(seed + i, 40, 5, spread=spread), axis=1) for i in (0, 1))
    items = [Labelled(f"t{i}", 0, i) for i in range(40)]
    sides = scored(items, log_probabilities=one), scored(items, log_probabilities=two)
    found, swapped = total_variation(*sides), total_variation(*sides[::-1])
    accepted = np.minimum(np.exp(one), np.exp(two)).sum(axis=1).mean()
    assert found.estimate.value == pytest.approx(1 - accepted, abs=1e-9)
    assert found.estimate.value == pytest.approx(swapped.estimate.value, abs=1e-12)
    assert 0 <= found.estimate.low <= found.estimate.high <= 1
    assert total_variation(sides[0], sides[0]).estimate.value == 0.0
