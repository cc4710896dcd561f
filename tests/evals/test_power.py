"""Power against the noncentral t distribution and against simulated runs."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from evals.estimate import exact
from evals.power import assumed_changes, assumed_drift, resolution, spread
from evals.statistics import clustered_mean, clustered_share


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_agrees_with_statsmodels_on_normal_items(n):
    values = np.random.default_rng(n).normal(size=n)
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8) * values.std(ddof=1)
    # The sum of two quantiles stands for one of the noncentral t.
    assert spread(clustered_mean(values, range(n))) == pytest.approx(expected, rel=0.02)


def test_an_unchanged_candidate_proves_its_margin_four_times_in_five():
    generator = np.random.default_rng(0)
    pilot = generator.choice([-1.0, 0.0, 1.0], 600, p=[0.03, 0.94, 0.03])
    margin = spread(clustered_share(pilot, range(600)))
    proven = [
        clustered_share(generator.choice([-1.0, 0.0, 1.0], 600, p=[0.03, 0.94, 0.03]),
                        range(600)).high <= margin
        for _ in range(500)
    ]  # fmt: skip
    assert 0.72 <= np.mean(proven) <= 0.9


def test_the_needed_items_resolve_the_margin():
    values = np.random.default_rng(1).normal(size=200)
    found = resolution(clustered_mean(values, range(200)), 0.05, known=True)
    assert not found.enough
    more = np.resize(values, found.needed)
    again = resolution(clustered_mean(more, range(len(more))), 0.05, known=True)
    assert again.resolved == pytest.approx(0.05, rel=0.02)


def test_what_never_varies_resolves_everything():
    found = resolution(clustered_mean(np.zeros(10), range(10)), 0.01, known=True)
    assert found.resolved == 0.0
    assert found.enough


def test_one_document_resolves_nothing():
    found = resolution(clustered_mean([1.0, 2.0], [0, 0]), 0.01, known=True)
    assert found.resolved == math.inf
    assert found.needed == -1
    assert not found.enough


def test_of_rare_changes_fewer_are_needed_than_the_square_says():
    def again(items):
        return clustered_share(np.zeros(items), range(items))

    squared = resolution(again(100), 0.01, known=False)
    found = resolution(again(100), 0.01, False, again)
    assert found.needed < squared.needed / 3
    assert spread(again(found.needed)) <= 0.01 < spread(again(int(found.needed * 0.97)))


def test_no_number_tells_nothing():
    found = resolution(clustered_mean([1.0, math.nan], [0, 1]), 0.1, known=True)
    assert (found.resolved, found.needed, found.enough) == (math.inf, -1, False)
    saturated = assumed_drift([0.0, 0.0, 0.0], 0.1)
    assert not resolution(clustered_mean(saturated, range(3)), 0.1, known=False).enough


def test_no_items_are_enough_for_no_margin():
    assert resolution(clustered_mean([1.0, 2.0], [0, 1]), 0.0, known=False).needed == -1


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.05, 0.3, 0.9])
def test_assumed_changes_fall_by_the_margin(margin):
    values = assumed_changes(margin, 1000, 400)
    assert len(values) == 1000
    assert set(values) <= {-1.0, 0.0, 1.0}
    assert values.mean() == pytest.approx(margin, abs=1e-3)


def test_assumed_drift_has_the_margin_for_its_mean_and_follows_the_baseline():
    found = assumed_drift([1.0, 2.0, 3.0], 0.1)
    assert found.mean() == pytest.approx(0.1)
    assert found[2] == pytest.approx(3 * found[0])
    assert np.isnan(assumed_drift([0.0, 0.0], 0.1)).all()


def test_what_was_counted_has_no_spread():
    with pytest.raises(TypeError):
        spread(exact(1.0))
