"""Steps in series, against all possible fits."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression_gates.evals.statistics.steps import (
    FEW_VALUES,
    PENALTY,
    fit_steps,
    run_to_run_noise,
)


def cost(values, errors, positions) -> float:
    """The penalized cost of a fit."""
    total = PENALTY * math.log(len(values)) * len(positions)
    for start, end in itertools.pairwise([0, *positions, len(values)]):
        weights = 1 / errors[start:end] ** 2
        level = np.average(values[start:end], weights=weights)
        total += float((weights * (values[start:end] - level) ** 2).sum())
    return total


def best_fit(values, errors) -> float:
    """The smallest cost over all positions of steps."""
    count = len(values)
    return min(
        cost(values, errors, positions)
        for steps in range(count)
        for positions in itertools.combinations(range(1, count), steps)
    )


@pytest.mark.parametrize("seed", range(12))
def test_no_other_fit_is_better(seed):
    generator = np.random.default_rng(seed)
    levels = np.repeat(generator.normal(0, 4, 3), 3)
    errors = generator.uniform(0.5, 2.0, 9)
    values = levels + errors * generator.normal(size=9)
    floor = max(run_to_run_noise(values), 1e-3 * np.ptp(values))
    errors = np.maximum(errors, floor)
    found = fit_steps(values, errors)
    assert cost(values, errors, found) == pytest.approx(best_fit(values, errors))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=25),
    st.floats(-1e3, 1e3), st.floats(0.1, 100),
)  # fmt: skip
def test_steps_do_not_depend_on_the_unit(values, shift, scale):
    values = np.round(np.asarray(values), 3)
    found = fit_steps(values, 1.0)
    assert found == sorted(set(found))
    assert all(0 < position < len(values) for position in found)
    moved = fit_steps(shift + scale * values, scale)
    # Fits of equal cost may be exchanged by rounding.
    errors = np.full(len(values), max(1.0, run_to_run_noise(values), 1e-3 * np.ptp(values)))
    assert cost(values, errors, moved) == pytest.approx(cost(values, errors, found), rel=1e-6)


def test_a_step_is_placed_at_the_first_run_of_the_new_level():
    generator = np.random.default_rng(0)
    values = generator.normal(0, 1, 40) + np.where(np.arange(40) >= 27, 6.0, 0.0)
    assert fit_steps(values, np.ones(40)) == [27]


def test_noise_has_few_steps():
    generator = np.random.default_rng(1)
    found = sum(bool(fit_steps(generator.normal(size=30), np.ones(30))) for _ in range(300))
    assert found / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 10, 20])
def test_steps_of_few_values_that_are_not_tested_are_as_rare_as_of_many(count):
    samples = np.random.default_rng(count).normal(size=(1000, count))
    found = sum(bool(fit_steps(values, np.ones(count), min_count=FEW_VALUES)) for values in samples)
    assert found <= 20
    large = np.where(np.arange(count) >= count / 2, 6.0, 0.0)
    if count == 3:  # the noise that is estimated from two differences is half of the step
        return
    assert fit_steps(large, np.ones(count), min_count=FEW_VALUES) == [math.ceil(count / 2)]


def test_a_value_with_a_large_error_makes_no_step():
    values = np.array([0.0, 0.1, -0.1, 8.0, 0.1, 0.0, -0.1, 0.1])
    assert fit_steps(values, np.full(8, 0.2)) == [3, 4]
    errors = np.where(np.arange(8) == 3, 8.0, 0.2)
    assert fit_steps(values, errors) == []


def test_numbers_without_an_error():
    """Sizes are counted: every change is a step, except of rounding size."""
    assert fit_steps([3.0, 3.0, 3.0, 2.0, 2.0], 0.0) == [3]
    assert fit_steps([3.0, 3.0, 3.0], 0.0) == []
    assert fit_steps([1.0], 0.0) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_have_to_be_finite(bad):
    with pytest.raises(ValueError, match="finite"):
        fit_steps([0.0, bad, 1.0], 1.0)


def test_noise_is_estimated_beside_steps_and_drifts():
    generator = np.random.default_rng(2)
    quiet = generator.normal(0, 0.5, 2000)
    stepped = quiet + np.where(np.arange(2000) % 400 < 200, 5.0, 0.0)
    drifting = quiet + 0.3 * np.arange(2000)
    for values in (quiet, stepped, drifting):
        assert run_to_run_noise(values) == pytest.approx(0.5, rel=0.08)
    assert run_to_run_noise([1.0, 5.0]) == 0.0
