"""The simulation behind the rates that the README states, with fewer sequences."""

import numpy as np
import pytest
from scipy import stats

from compression_gates.evals.gates.watch import SHARES
from compression_gates.fixtures.experiments import history_simulation as simulation
from compression_gates.fixtures.experiments.history_simulation import (
    ANSWERS,
    DIVERGENCES,
    SPEEDS,
    draw_answers,
    draw_divergences,
    draw_speeds,
    drifts_found,
    false_alarms,
    largest_z,
    main,
    records_of,
    regressing,
    repeated,
    steps_named,
)


def is_at_least(share: float, count: int, promised: float) -> bool:
    """Whether a share does not contradict what is promised, at a level of 0.1 %."""
    hits = round(share * count)
    return stats.binomtest(hits, count, promised, alternative="less").pvalue > 1e-3


@pytest.mark.parametrize("starts", [(), (0, 10, 20)])
def test_at_most_one_quiet_sequence_of_a_hundred_has_an_alarm(starts):
    alarmed = false_alarms(100, starts=starts, seed=1)
    assert is_at_least(1 - alarmed["any"], 100, 0.99)
    assert set(alarmed) == {*SHARES, "any"}


@pytest.mark.parametrize("kind", ["answers", "divergence", "small divergence"])
def test_a_step_of_twice_the_limit_is_named_in_its_night(kind):
    named, dated = steps_named(60, kind, seed=1)
    assert is_at_least(named, 60, 0.95)
    assert is_at_least(dated, 60, 0.95)


@pytest.mark.parametrize(
    "kind", ["answers", "divergence", pytest.param("small divergence", marks=pytest.mark.full)]
)
def test_a_drift_is_found_before_it_exceeds_one_and_a_half_limits(kind):
    found, median = drifts_found(40, kind, seed=1)
    assert is_at_least(found, 40, 0.95)
    assert 0.2 < median <= 1.5


def test_the_screen_leaves_out_nothing_that_is_significant():
    """With and without it, the same drifts are found in the same nights."""
    assert drifts_found(6, "answers", seed=2) == drifts_found(6, "answers", seed=2, min_z=-np.inf)


def test_the_numbers_that_are_screened_are_those_of_the_records():
    generator = np.random.default_rng(0)
    for gates in (draw_answers(generator, 3, 4), draw_divergences(generator, 3, 4),
                  draw_speeds(generator, 3, 4)):  # fmt: skip
        records = records_of(generator, gates.kind, "model", gates.values[1])
        values = np.array([record.value for record in records])
        rises = -np.log(values) if gates.kind == "speed" else values
        np.testing.assert_allclose(rises, gates.rises[1], rtol=1e-5)


def test_the_statistic_is_that_of_the_largest_contrast():
    generator = np.random.default_rng(1)
    gates = draw_divergences(generator, 20, 5)
    z = largest_z(gates)
    assert np.isneginf(z[:, 0]).all()
    rise = gates.rises[:, 1] - gates.rises[:, 0]
    np.testing.assert_allclose(z[:, 1], rise / np.sqrt(gates.variances[:, :2].sum(axis=1)))
    planted = draw_divergences(generator, 1, 21)
    planted.rises[:, 15:] += 0.01
    assert largest_z(planted)[0].argmax() >= 15


def test_repeated_runs_are_identical_between_changes():
    gates = repeated(draw_answers(np.random.default_rng(0), 2, 6), (0, 4))
    np.testing.assert_array_equal(gates.values[:, 0], gates.values[:, 3])
    np.testing.assert_array_equal(gates.values[:, 4], gates.values[:, 5])


def test_lost_answers_stay_lost():
    records = regressing(np.random.default_rng(0), "answers", np.array([0.0, 0.1, 0.2]), churn=0.0)
    first, second, third = (record.items.values for record in records)
    assert not first.any()
    assert (third[second == 1] == 1).all()
    assert records[2].value == pytest.approx(0.2, abs=0.03)


def test_the_command_prints_its_tables(capsys, monkeypatch):
    monkeypatch.setattr(simulation, "CHUNK", 2)
    main(["--sequences", "2"])
    printed = capsys.readouterr().out
    gates = ANSWERS + DIVERGENCES + SPEEDS
    assert printed.startswith(f"2 sequences of 30 nights x {gates} gates, limit 2%")
    assert printed.count("\n| ") == 2 + 7
