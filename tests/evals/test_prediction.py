"""Limits for fresh draws against the prediction interval of normal values and against draws."""

import math

import numpy as np
import pytest
from scipy import stats

from compression_gates.evals.statistics.estimate import estimate, exact
from compression_gates.evals.statistics.item_values import (
    MEAN,
    PROPORTION,
    SCORE_CHANGE,
    ItemValues,
)
from compression_gates.evals.statistics.prediction import upper_prediction_limit
from compression_gates.fixtures.experiments.planning_simulation import (
    DOCUMENTS,
    answers,
    failing_limits,
    flipping,
)


def items_of(values, kind=MEAN, sizes=None):
    values = np.asarray(values, np.float32)
    sizes = np.ones(len(values)) if sizes is None else sizes
    units = np.arange(len(values), dtype=np.int32)
    return ItemValues(kind, values, np.asarray(sizes, np.int32), units, {})


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_agrees_with_the_prediction_interval_of_a_normal_mean(rate):
    values = np.random.default_rng(0).normal(size=200)
    items = items_of(values)
    found = items.estimate()
    error = values.std(ddof=1) / math.sqrt(200)
    textbook = found.value + math.sqrt(2) * stats.t.isf(rate, 199) * error
    assert upper_prediction_limit(found, items, rate) - found.value == pytest.approx(
        textbook - found.value, rel=0.1
    )
    whole = upper_prediction_limit(found, items, rate, whole_interval=True)
    usual = textbook + (found.high - found.value)
    assert whole - found.value == pytest.approx(usual - found.value, rel=0.15)


def test_without_items_it_is_the_interval_at_another_confidence():
    def bounds(level):
        half = stats.norm.ppf(0.5 + level / 2)
        return -half, half

    found = estimate(0.0, bounds, 50, 50)
    assert upper_prediction_limit(found, None, 0.01) == pytest.approx(
        math.sqrt(2) * stats.norm.isf(0.01)
    )
    assert upper_prediction_limit(found, None, 0.01, whole_interval=True) == pytest.approx(
        math.sqrt(2) * stats.norm.isf(0.01) + 1.96, abs=0.01
    )


def test_a_document_counts_by_its_size():
    generator = np.random.default_rng(1)
    values, sizes = generator.exponential(size=100), generator.integers(1, 50, 100)
    items = items_of(values, sizes=sizes)
    found = items.estimate()
    limit = upper_prediction_limit(found, items)
    assert limit > found.high
    assert limit == pytest.approx(upper_prediction_limit(found, items))  # seeded
    scaled = items_of(10 * values, sizes=sizes)
    assert upper_prediction_limit(scaled.estimate(), scaled) == pytest.approx(10 * limit, rel=1e-4)


def test_what_never_varies_stays_what_it_is():
    items = items_of(np.full(50, 0.5))
    assert upper_prediction_limit(items.estimate(), items) == 0.5
    assert upper_prediction_limit(exact(3.0), None) == 3.0


@pytest.mark.parametrize(
    ("draw", "kind", "count", "strict"),
    [
        (DOCUMENTS["normal"], MEAN, 60, True),
        (DOCUMENTS["exponential"], MEAN, 60, False),
        (answers(0.02), SCORE_CHANGE, 500, False),
        (answers(0.05), SCORE_CHANGE, 500, True),
        (flipping(0.05), PROPORTION, 500, False),
    ],
)
def test_fresh_draws_seldom_break_a_limit(draw, kind, count, strict):
    """`python -m compression_gates.fixtures.experiments.planning_simulation` draws more of them."""
    share, none = failing_limits(draw, kind, count, strict, draws=60)
    assert share <= 0.02
    assert none == 0.0


def test_a_limit_for_another_rate_fails_at_that_rate():
    share, _ = failing_limits(answers(0.1), SCORE_CHANGE, 2000, False, rate=0.2, draws=150)
    assert 0.1 <= share <= 0.25
