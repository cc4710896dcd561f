"""Metrics of predicted tokens beside perplexity per token and JS: against plain numpy."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from compression_gates.evals.data.items import (
    DROP,
    NO_OVERRIDES,
    DataSet,
    Labelled,
    ProtocolOverrides,
    Text,
)
from compression_gates.evals.gates.gate import (
    CRITICAL,
    DEFAULT,
    FAILED,
    INCONCLUSIVE,
    SMOKE,
    SUPPORTING,
    Gate,
    verdict_of,
)
from compression_gates.evals.metrics.perplexity import (
    byte_perplexity_drift,
    perplexity,
    perplexity_drift,
    word_perplexity_drift,
)
from compression_gates.evals.metrics.prediction_divergence import kl_from_baseline, kl_to_baseline
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.metrics.top1_agreement_drop import top1_agreement_drop
from compression_gates.evals.scores import Pair, Scores
from compression_gates.evals.store.measurement import Measurement
from tests.evals.scores import ORIGIN, logits, scored

DOCUMENTS, TOKENS = 40, 8
N = DOCUMENTS * TOKENS
WORDS, BYTES = 200, 900


CUT = ProtocolOverrides(tail=DROP)


def side(overrides=NO_OVERRIDES, **arrays) -> Scored:
    """40 documents of 8 tokens, with the losses and divergences that are given."""
    document = np.repeat(np.arange(DOCUMENTS), TOKENS)
    base = {
        "tokens": np.arange(len(document)), "window": document, "cluster": document,
        "units": np.array([WORDS, BYTES]), "windowing": np.array([64, 32]),
        "vocabulary": np.array(576), "window_text": np.array([f"t{i}" for i in range(DOCUMENTS)]),
        "nll": np.random.default_rng(0).exponential(size=len(document)),
    }  # fmt: skip
    items = tuple(Text(f"t{i}", i) for i in range(DOCUMENTS))
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    return Scored(DataSet("d", items, overrides), Measurement(base | arrays, ORIGIN))


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).exponential(0.1, size=DOCUMENTS * TOKENS)


def candidate() -> Scored:
    agree = np.random.default_rng(4).random(DOCUMENTS * TOKENS) < 0.9
    return side(
        nll=side()["nll"] + draw(1) - 0.05, js=draw(2), kl_forward=draw(3), kl_backward=draw(5),
        tv=draw(6), agree=agree,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "units", "unit"),
    [(word_perplexity_drift, WORDS, "word"), (byte_perplexity_drift, BYTES, "byte")],
)
def test_perplexity_per_word_and_byte_rises_as_the_ratio_of_both_says(metric, units, unit):
    one, two = side(), candidate()
    found = metric(one, two)
    levels = [perplexity(part["nll"], units) for part in (one, two)]
    assert (found.baseline, found.candidate) == tuple(levels)
    assert found.estimate.value == pytest.approx(levels[1] / levels[0] - 1)
    assert found.estimate.low < found.estimate.value < found.estimate.high
    per_token = perplexity_drift(one, two)
    assert found.candidate == per_token.facts[f"{unit}_perplexity"]
    assert found.protocol == per_token.protocol.replace("per token", f"per {unit}")
    logs = found.items.estimate()
    assert math.expm1(logs.value) == pytest.approx(found.estimate.value, abs=1e-6)


def test_words_that_are_not_predicted_are_not_counted_on():
    found = word_perplexity_drift(side(CUT), side(CUT))
    assert found.not_judged == "the number of predicted words is unknown"


@pytest.mark.parametrize(
    ("metric", "array"), [(kl_from_baseline, "kl_forward"), (kl_to_baseline, "kl_backward")]
)
def test_kl_of_next_tokens_is_the_mean_of_one_direction(metric, array):
    found = metric(side(), candidate())
    expected = pytest.approx(candidate()[array].mean())
    assert (found.estimate.value, found.candidate) == (expected, expected)
    assert found.facts[metric.__name__] == found.candidate
    assert found.estimate.clusters == DOCUMENTS
    assert "nats per token" in found.worst.items[0].line()


def test_kl_of_classes():
    one, two = (log_softmax(logits(seed, 3, 2), axis=1) for seed in (0, 1))
    items = [Labelled("a", 0, 0), Labelled("b", 1, 1), Labelled("c", 1, 2)]
    sides = scored(items, log_probabilities=one), scored(items, log_probabilities=two)
    p, q = np.exp(one), np.exp(two)
    assert kl_from_baseline(*sides).candidate == pytest.approx(rel_entr(p, q).sum(1).mean())
    assert kl_to_baseline(*sides).candidate == pytest.approx(rel_entr(q, p).sum(1).mean())


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_token_that_is_ruled_out_fails_in_kl(broken):
    values = draw(3)
    values[17] = broken
    found = kl_from_baseline(
        side(), side(**{**candidate().measurement.arrays, "kl_forward": values})
    )
    assert verdict_of("c", Gate("kl_from_baseline", 0.5), found).outcome == FAILED


def test_top1_agreement_falls_short_of_one_by_the_share_of_other_tokens():
    found, agree = top1_agreement_drop(side(), candidate()), candidate()["agree"]
    assert found.estimate.value == pytest.approx(1 - agree.mean())
    assert (found.baseline, found.candidate) == (1.0, pytest.approx(agree.mean()))
    assert 0 <= found.estimate.low < found.estimate.value < found.estimate.high <= 1
    assert found.worst.items[0].line().count("of the tokens") == 1


def test_a_token_without_numbers_is_no_agreement():
    arrays = {**candidate().measurement.arrays, "agree": np.ones(DOCUMENTS * TOKENS, bool)}
    arrays["js"][3] = math.nan
    found = top1_agreement_drop(side(), side(**arrays))
    assert verdict_of("c", Gate("top1_agreement_drop", 0.5), found).outcome == FAILED


ONE_WINDOW = (
    "perplexity_drift", "js_divergence", "kl_from_baseline", "kl_to_baseline", "total_variation",
    "correct_probability_drop", "correct_probability_rms", "top1_agreement_drop", "kl_p90",
)  # fmt: skip


@pytest.mark.parametrize("name", ONE_WINDOW)
def test_a_single_window_has_no_interval_that_its_bounds_could_replace(name):
    one = {"window": np.zeros(N, int), "cluster": np.zeros(N, int), "window_text": np.array(["t"])}
    arrays = {**candidate().measurement.arrays, **one}
    baseline, broken = (
        Scored(DataSet("d", (Text("t", 0),)), Measurement(arrays | nll, ORIGIN))
        for nll in ({"nll": np.full(N, 0.5)}, {"nll": np.full(N, 3.0)})
    )
    found = METRICS[name].read(Pair(Scores({"text": baseline}), Scores({"text": broken})))
    assert not found.not_judged
    assert found.estimate.value > 0.01
    assert (found.estimate.low, found.estimate.high) == (-math.inf, math.inf)
    assert found.estimate.bounds(0.5) == (-math.inf, math.inf)
    for tier, policy in ((CRITICAL, SMOKE), (SUPPORTING, DEFAULT)):
        verdict = verdict_of("c", Gate(name, 0.01, tier=tier), found)
        assert verdict.outcome == INCONCLUSIVE
        assert not verdict.holds(policy)
