"""Power against the noncentral t distribution and against simulated runs."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from compression_gates.evals.statistics.estimate import exact
from compression_gates.evals.statistics.item_values import (
    MEAN,
    PROPORTION,
    SCORE_CHANGE,
    ItemValues,
)
from compression_gates.evals.statistics.means import clustered_mean
from compression_gates.evals.statistics.power import (
    POWER,
    detectable_effect_like,
    detectable_effect_of_flips,
    flip_rate,
    minimum_detectable_effect,
    needed_items,
    power_of_mean,
    power_of_share,
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
    items = needed_items(lambda n: detectable_effect_of_flips(n, flips), limit)
    assert 0.75 <= power_of(items, flips, limit, repeats=600) <= 0.9


def test_planned_items_of_shared_fate_have_the_power_that_they_promise():
    alone = needed_items(lambda n: detectable_effect_of_flips(n, 0.04, 10), 0.05, 10)
    shared = needed_items(lambda n: detectable_effect_of_flips(n, 0.04, 10, shared=True), 0.05, 10)
    # Few documents that carry any flip say little of how independent their items are.
    assert shared > 2.5 * alone
    assert 0.75 <= power_of(shared, 0.04, 0.05, 10, shared=True, repeats=600) <= 0.9
    # The number for items that flip each by itself is far too small then.
    assert power_of(alone, 0.04, 0.05, 10, shared=True, repeats=200) < 0.5


def test_one_that_flips_more_needs_more():
    needed = [
        needed_items(lambda n, f=f: detectable_effect_of_flips(n, f), 0.02)
        for f in (0.01, 0.02, 0.05, 0.1)
    ]
    assert needed == sorted(needed)
    # The usual formula: (t_{1 - alpha / 2} + t_{power})^2 * variance / limit^2.
    assert needed[-1] == pytest.approx((1.96 + 0.8416) ** 2 * 0.1 / 0.02**2, rel=0.05)


def test_a_limit_on_the_flips_themselves_lies_above_them():
    assert detectable_effect_of_flips(1000, 0.04, distance=True) > 0.04
    items = needed_items(lambda n: detectable_effect_of_flips(n, 0.04, distance=True), 0.06)
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
        assert detectable_effect_like(pair)(number) == pytest.approx(expected, rel=0.12)


def test_a_proportion_stays_what_it_is():
    hits = items_of(np.arange(300) % 25 == 0, kind=PROPORTION)
    assert detectable_effect_like(hits)(300) == pytest.approx(
        detectable_effect_of_flips(300, 0.04, distance=True), rel=1e-6
    )
    with pytest.raises(ValueError, match="kind 'mean'"):
        detectable_effect_like(items_of([1.0], kind=MEAN))


def test_what_items_resolve_is_consistent_with_what_it_takes():
    found = power_of_share(0.02, 500, lambda n: detectable_effect_of_flips(n, 0.04))
    assert not found.is_sufficient
    assert (
        detectable_effect_of_flips(found.needed_items, 0.04)
        <= 0.02
        < detectable_effect_of_flips(int(found.needed_items * 0.93), 0.04)
    )
    more = power_of_share(0.02, found.needed_items, lambda n: detectable_effect_of_flips(n, 0.04))
    assert more.is_sufficient
    assert more.needed_items == found.needed_items


def test_the_needed_documents_of_a_mean_resolve_the_limit():
    values = np.random.default_rng(1).normal(size=200)
    found = power_of_mean(clustered_mean(values, range(200)), 0.05)
    assert not found.is_sufficient
    more = np.resize(values, found.needed_items)
    again = power_of_mean(clustered_mean(more, range(len(more))), 0.05)
    assert again.minimum_detectable_effect == pytest.approx(0.05, rel=0.02)


def test_a_distance_starts_from_where_the_candidate_is():
    estimate = clustered_mean(np.random.default_rng(1).normal(0.03, 0.01, 100), range(100))
    near, far = (power_of_mean(estimate, 0.05, centre) for centre in (0.0, estimate.value))
    assert far.minimum_detectable_effect == pytest.approx(
        near.minimum_detectable_effect + estimate.value
    )
    assert far.needed_items > near.needed_items
    assert power_of_mean(estimate, 0.02, estimate.value).needed_items == -1


def test_one_document_or_no_number_resolves_nothing():
    for values, documents in (([1.0, 2.0], [0, 0]), ([1.0, math.nan], [0, 1])):
        found = power_of_mean(clustered_mean(values, documents), 0.01)
        assert (found.minimum_detectable_effect, found.needed_items, found.is_sufficient) == (
            math.inf,
            -1,
            False,
        )


def test_an_interval_that_cannot_be_relied_on_resolves_nothing():
    from dataclasses import replace

    assert (
        minimum_detectable_effect(replace(clustered_mean([1.0, 2.0], [0, 1]), unreliable="few"))
        == math.inf
    )


def test_what_is_unknown_is_neither_enough_nor_promised():
    found = unknown_power(0.05, 100, "unknown")
    assert (found.is_known, found.is_sufficient, found.needed_items) == (False, False, -1)


def test_fewer_than_thirty_documents_are_never_planned():
    assert needed_items(lambda n: 0.0, 0.01) == 30
    assert needed_items(lambda n: 0.0, 0.01, 10) == 300


def test_no_items_are_enough_for_a_limit_of_nothing():
    assert needed_items(lambda n: 1 / n, 0.0) == -1
    assert power_of_mean(clustered_mean([1.0, 2.0], [0, 1]), 0.0).needed_items == -1
    assert needed_items(lambda n: 1.0, 0.5) == -1


def test_rare_changes_need_what_the_rule_of_three_says():
    items = needed_items(
        lambda n: minimum_detectable_effect(clustered_score_change(np.zeros(n), range(n))), 0.01
    )
    assert 3.0 / 0.01 < items < 8.0 / 0.01


def test_what_was_counted_has_no_spread():
    with pytest.raises(TypeError):
        minimum_detectable_effect(exact(1.0))
    assert POWER == 0.8
