"""The series of a gate, and the steps in it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from compression_gates.evals.gates.rises import TIMING_NOISE
from compression_gates.evals.history.series import series_of, standard_errors
from tests.evals.history.small import case_of, run_at, size_of
from tests.evals.test_nightly_comparison import bare, sampled


def test_points_and_steps():
    runs = [replace(run_at(day), id=day) for day in range(1, 9)]
    cases = {run.id: size_of(2.0 if run.id < 6 else 1.5) for run in runs if run.id != 3}
    series = series_of(runs, cases)
    assert (series.candidate, series.metric, series.limit) == ("model", "compression_ratio", 0.9)
    assert [point.run for point in series.points] == [1, 2, 4, 5, 6, 7, 8]
    [step] = series.steps
    assert (step.point, step.run, step.before, step.after) == (4, 6, 2.0, 1.5)
    assert (step.time, step.commit) == (runs[5].time, runs[5].commit)
    assert series.points[step.point].run == step.run


def test_values_that_are_no_numbers_are_points_but_no_steps():
    runs = [replace(run_at(day), id=day) for day in range(1, 6)]
    cases = {run.id: size_of(2.0) for run in runs}
    cases[3] = replace(cases[3], value=math.nan)
    series = series_of(runs, cases)
    assert len(series.points) == 5
    assert math.isnan(series.points[2].value)
    assert series.steps == []


def test_runs_without_the_case_are_left_out():
    runs = [replace(run_at(day), id=day) for day in (1, 2)]
    assert [point.run for point in series_of(runs, {2: size_of(1.0)}).points] == [2]


def test_errors_are_those_of_paired_differences():
    generator = np.random.default_rng(0)
    easy_or_hard = generator.normal(0, 5, 500)  # is the same in each run
    records = [
        sampled(easy_or_hard + generator.normal(0, 0.1, 500), metric="js_divergence")
        for _ in range(5)
    ]
    expected = 0.1 * math.sqrt(2 / 500)
    assert standard_errors(records) == pytest.approx([expected] * 5, rel=0.15)
    assert records[0].standard_error > 10 * expected


def test_errors_without_items():
    assert standard_errors([bare(0.1, 0.0)] * 3) == [0.0] * 3
    fast = bare(2.0, 0.0, metric="speedup")
    assert standard_errors([fast] * 2) == pytest.approx([2 * TIMING_NOISE] * 2)


def test_noise_is_no_step():
    runs = [replace(run_at(day), id=day) for day in range(1, 21)]
    generator = np.random.default_rng(4)
    cases = {run.id: case_of(generator.random(500) < 0.05) for run in runs}
    assert series_of(runs, cases).steps == []


def test_two_runs_that_differ_by_noise_have_no_step():
    """15 % of such pairs differ by more than the penalty of two values."""
    shown = 0
    for seed in range(100):
        values = 0.2 + 0.1 * np.random.default_rng(seed).normal(size=(2, 400))
        runs = [replace(run_at(day), id=day) for day in (1, 2)]
        cases = {run.id: case_of(items) for run, items in zip(runs, values, strict=True)}
        shown += bool(series_of(runs, cases).steps)
    assert shown <= 3


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("data", "the data differ"),
        ("protocol", "the protocol differs"),
    ],
)
def test_no_step_is_fitted_across_runs_that_cannot_be_compared(part, reason):
    runs = [replace(run_at(day), id=day) for day in range(1, 13)]
    values = np.repeat([0.0, 1.0], [400, 100])
    cases = {
        run.id: case_of(values, **{part: "other"}) if run.id >= 5 else case_of(0 * values)
        for run in runs
    }
    series = series_of(runs, cases)
    assert series.steps == []
    assert series.breaks == {4: reason}


def test_steps_are_fitted_on_both_sides_of_a_break():
    runs = [replace(run_at(day), id=day) for day in range(1, 17)]
    ratios = [2.0] * 4 + [1.5] * 4 + [3.0] * 4 + [2.5] * 4
    cases = {run.id: size_of(ratio) for run, ratio in zip(runs, ratios, strict=True)}
    cases[6] = replace(cases[6], value=math.nan)
    for number in range(9, 17):
        cases[number] = replace(cases[number], origin={"baseline": "other"})
    series = series_of(runs, cases)
    assert [(step.run, step.before, step.after) for step in series.steps] == [
        (5, 2.0, 1.5),
        (13, 3.0, 2.5),
    ]
    assert [step.point for step in series.steps] == [4, 12]
    assert series.breaks == {8: "the baseline differs"}
