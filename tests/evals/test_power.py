"""Power against the noncentral t distribution and against simulated runs."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.statistics.estimate import exact
from compression_gates.evals.statistics.item_values import (
    MEAN,
    PROPORTION,
    SCORE_CHANGE,
    SERIES,
    ItemValues,
)
from compression_gates.evals.statistics.means import (
    clustered_mean,
    series_mean,
    studentized_mean,
)
from compression_gates.evals.statistics.power import (
    POWER,
    detectable_effect_like,
    detectable_effect_of_flips,
    flip_rate,
    minimum_detectable_effect,
    needed_size,
    power_of_sample,
    scaled_effect,
    unknown_power,
)
from compression_gates.evals.statistics.proportions import (
    clustered_proportion,
    clustered_score_change,
)
from compression_gates.fixtures.experiments.planning_simulation import power_of


def items_of(values, documents=None, kind=SCORE_CHANGE):
    values = np.asarray(values, np.float32)
    documents = np.arange(len(values)) if documents is None else np.asarray(documents)
    return ItemValues(kind, values, np.ones(len(values), np.int32), documents, {})


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_agrees_with_statsmodels_on_normal_items(n):
    values = np.random.default_rng(n).normal(size=n)
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8) * values.std(ddof=1)
    # The sum of two quantiles stands for one of the noncentral t.
    assert minimum_detectable_effect(clustered_mean(values, range(n))) == pytest.approx(
        expected, rel=0.02
    )


@pytest.mark.parametrize(("flips", "limit"), [(0.02, 0.02), (0.05, 0.02), (0.05, 0.05)])
def test_planned_items_have_the_power_that_they_promise(flips, limit):
    """`python -m compression_gates.fixtures.experiments.planning_simulation` draws more of them."""
    items = needed_size(lambda n: detectable_effect_of_flips(n, flips), limit)
    assert 0.75 <= power_of(items, flips, limit, repeats=600) <= 0.9


def test_planned_items_of_shared_fate_have_the_power_that_they_promise():
    alone = needed_size(lambda n: detectable_effect_of_flips(n, 0.04, 10), 0.05, 10)
    shared = needed_size(lambda n: detectable_effect_of_flips(n, 0.04, 10, shared=True), 0.05, 10)
    # Few documents that carry any flip say little of how independent their items are.
    assert shared > 2.5 * alone
    assert 0.75 <= power_of(shared, 0.04, 0.05, 10, shared=True, repeats=600) <= 0.9
    # The number for items that flip each by itself is far too small then.
    assert power_of(alone, 0.04, 0.05, 10, shared=True, repeats=200) < 0.5


def test_one_that_flips_more_needs_more():
    needed = [
        needed_size(lambda n, f=f: detectable_effect_of_flips(n, f), 0.02)
        for f in (0.01, 0.02, 0.05, 0.1)
    ]
    assert needed == sorted(needed)
    # The usual formula: (t_{1 - alpha / 2} + t_{power})^2 * variance / limit^2.
    assert needed[-1] == pytest.approx((1.96 + 0.8416) ** 2 * 0.1 / 0.02**2, rel=0.05)


def test_a_limit_on_the_flips_themselves_lies_above_them():
    assert detectable_effect_of_flips(1000, 0.04, distance=True) > 0.04
    items = needed_size(lambda n: detectable_effect_of_flips(n, 0.04, distance=True), 0.06)
    generator = np.random.default_rng(0)
    proven = [
        clustered_proportion(generator.random(items) < 0.04, range(items)).high <= 0.06
        for _ in range(500)
    ]
    assert 0.72 <= np.mean(proven) <= 0.9


@pytest.mark.parametrize("documents", [1, 5])
def test_a_measured_pair_is_laid_out_as_one_that_has_not_changed(documents):
    generator = np.random.default_rng(3)
    # Two documents in fifty change as a whole, all of them for the worse.
    changed = np.repeat(generator.random(400 // documents) < 0.04, documents)
    pair = items_of(changed, np.repeat(np.arange(400 // documents), documents))
    flips = flip_rate(pair)
    assert flips == pytest.approx(changed.mean())
    for number in (400, 1600):
        expected = detectable_effect_of_flips(number, flips, documents, shared=True)
        unchanged = detectable_effect_like(pair, unchanged=True)(number)
        assert unchanged == pytest.approx(expected, rel=0.12)
        assert detectable_effect_like(pair)(number) > changed.mean()


def test_a_proportion_stays_what_it_is():
    hits = items_of(np.arange(300) % 25 == 0, kind=PROPORTION)
    assert detectable_effect_like(hits)(300) == pytest.approx(
        detectable_effect_of_flips(300, 0.04, distance=True), rel=1e-6
    )
    needed = needed_size(detectable_effect_like(hits), 0.05)
    generator = np.random.default_rng(0)
    proven = [
        clustered_proportion(generator.random(needed) < 0.04, range(needed)).high <= 0.05
        for _ in range(500)
    ]
    assert 0.72 <= np.mean(proven) <= 0.88


def test_what_items_resolve_is_consistent_with_what_it_takes():
    found = power_of_sample(0.02, 500, lambda n: detectable_effect_of_flips(n, 0.04))
    assert not found.is_sufficient
    assert (
        detectable_effect_of_flips(found.needed, 0.04)
        <= 0.02
        < detectable_effect_of_flips(int(found.needed * 0.93), 0.04)
    )
    more = power_of_sample(0.02, found.needed, lambda n: detectable_effect_of_flips(n, 0.04))
    assert more.is_sufficient
    assert more.needed == found.needed


def means_of(values, kind=MEAN):
    return items_of(values, kind=kind)


def test_the_needed_documents_of_a_mean_resolve_the_limit():
    values = np.random.default_rng(1).normal(size=200)
    effect = detectable_effect_like(means_of(values), unchanged=True)
    needed = needed_size(effect, 0.05)
    assert needed > 200
    again = detectable_effect_like(means_of(np.resize(values, needed)), unchanged=True)
    assert again(needed) == pytest.approx(0.05, rel=0.02)


def test_a_mean_in_samples_of_other_sizes_is_that_of_repeated_documents():
    values = np.random.default_rng(2).lognormal(0.0, 1.5, 300)
    effect = detectable_effect_like(means_of(values))
    for copies in (1, 2, 10, 50):
        repeated = np.tile(values.astype(np.float32), copies)
        mean = studentized_mean(repeated, range(len(repeated)))
        expected = mean.value + minimum_detectable_effect(mean)
        assert effect(len(repeated)) == pytest.approx(expected, rel=0.01)
    # The interval of skewed values shrinks faster than the square root of their number grows.
    excess = [effect(300 * copies) - values.mean() for copies in (1, 50)]
    assert excess[1] < 0.5 * excess[0] / math.sqrt(50)
    smaller = effect(150) - values.mean()
    assert smaller > math.sqrt(2) * excess[0]
    assert effect(20) == math.inf  # unreliable below 30 documents


def test_more_windows_have_more_degrees_of_freedom():
    values = np.random.default_rng(0).normal(size=30)
    effect = detectable_effect_like(means_of(values, SERIES), unchanged=True)
    assert effect(30) == pytest.approx(minimum_detectable_effect(series_mean(values, range(30))))
    assert effect(3000) < 0.8 * effect(30) / 10


def test_the_size_is_counted_in_the_unit_of_the_metric():
    values = np.random.default_rng(1).normal(size=200)
    by_document = detectable_effect_like(means_of(values))
    by_item = detectable_effect_like(means_of(values), size=1000)
    assert by_item(5000) == pytest.approx(by_document(1000))


def test_a_distance_starts_from_where_the_candidate_is():
    pair = means_of(np.random.default_rng(1).normal(0.03, 0.01, 100))
    near, far = (detectable_effect_like(pair, unchanged) for unchanged in (True, False))
    assert far(100) == pytest.approx(near(100) + pair.values.mean())
    assert needed_size(far, 0.0315) > needed_size(near, 0.0315)
    assert needed_size(far, 0.02) == -1


def test_a_quantity_without_values_is_scaled():
    estimate = clustered_mean(np.random.default_rng(1).normal(size=200), range(200))
    effect = scaled_effect(estimate, 200, 0.0)
    assert effect(200) == pytest.approx(minimum_detectable_effect(estimate))
    assert effect(800) == pytest.approx(effect(200) / 2)


def test_one_document_or_no_number_resolves_nothing():
    for values, documents in (([1.0, 2.0], [0, 0]), ([1.0, math.nan], [0, 1])):
        effect = scaled_effect(clustered_mean(values, documents), 2, 0.0)
        found = power_of_sample(0.01, 2, effect)
        assert (found.minimum_detectable_effect, found.needed, found.is_sufficient) == (
            math.inf,
            -1,
            False,
        )
    assert detectable_effect_like(means_of([1.0]))(100) == math.inf


def test_an_interval_that_cannot_be_relied_on_resolves_nothing():
    from dataclasses import replace

    assert (
        minimum_detectable_effect(replace(clustered_mean([1.0, 2.0], [0, 1]), unreliable="few"))
        == math.inf
    )


def test_what_is_unknown_is_neither_enough_nor_promised():
    found = unknown_power(0.05, 100, "items", "unknown")
    assert (found.is_known, found.is_sufficient, found.needed) == (False, False, -1)


def test_fewer_than_thirty_documents_are_never_planned():
    assert needed_size(lambda n: 0.0, 0.01) == 30
    assert needed_size(lambda n: 0.0, 0.01, 10) == 300


def test_no_items_are_enough_for_a_limit_of_nothing():
    assert needed_size(lambda n: 1 / n, 0.0) == -1
    assert needed_size(lambda n: 1.0, 0.5) == -1


def test_rare_changes_need_what_the_rule_of_three_says():
    items = needed_size(
        lambda n: minimum_detectable_effect(clustered_score_change(np.zeros(n), range(n))), 0.01
    )
    assert 3.0 / 0.01 < items < 8.0 / 0.01


@pytest.mark.parametrize(
    ("kind", "metric", "tail"),
    [(PROPORTION, "flips", 0.025), (SCORE_CHANGE, "accuracy_drop", 0.05)],
)
def test_a_candidate_without_changes_needs_no_more_than_proves_its_limit(kind, metric, tail):
    """Repeated samples of it have no events either, so their upper ends do not vary."""
    expected = math.ceil(math.log(tail) / math.log(1 - 0.02))
    unchanged = items_of(np.zeros(100), kind=kind)
    needed = needed_size(detectable_effect_like(unchanged), 0.02)
    assert expected <= needed <= expected + 1
    result = MetricResult(unchanged.estimate(), 0.0, 0.0, items=unchanged)
    assert verdict_of("c", Gate(metric, 0.02), result).needed == needed
    ends = [items_of(np.zeros(size), kind=kind).estimate().high for size in (expected - 1, needed)]
    assert ends[0] > 0.02 >= ends[1]


def test_what_was_counted_has_no_spread():
    with pytest.raises(TypeError):
        minimum_detectable_effect(exact(1.0))
    assert POWER == 0.8
