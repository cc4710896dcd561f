import math
import re

import pytest

from compression_gates.fixtures.experiments.scenarios import SCENARIOS, divergences
from compression_gates.fixtures.experiments.simulation import (
    NULLS,
    IntervalCoverage,
    coverage,
    main,
    naive_alarms,
    rejections,
    runs,
)
from compression_gates.fixtures.experiments.tail_scenarios import NAIVE, TAILS

REPEATS = 200
NAMES = {scenario.name: scenario for scenario in SCENARIOS}
BETWEEN = re.compile(
    r"skewness 1$|, (60|100|160) documents$|, (60|120) windows|60 documents of about 60"
    r"|^90\.0% quantile|5% of 160 documents|by 33%$"
)
"""Scenarios between two others of the same kind, which need --full."""


def named(scenarios):
    """Return a parameter for each scenario, under its name."""
    return [
        pytest.param(
            scenario,
            id=scenario.name,
            marks=pytest.mark.full if BETWEEN.search(scenario.name) else [],
        )
        for scenario in scenarios
    ]


def check_coverage(scenario, repeats):
    (found,) = coverage(scenario, repeats, seed=1, compare=False).values()
    # Three standard errors of so many repeats above what may be wrong.
    assert found.missed <= 0.065 + 3 * math.sqrt(0.065 * 0.935 / repeats)


@pytest.mark.parametrize("scenario", named(SCENARIOS))
def test_intervals_that_gates_use_cover_the_truth_or_say_that_they_do_not(scenario):
    check_coverage(scenario, REPEATS)


@pytest.mark.parametrize("scenario", named(TAILS))
def test_intervals_of_quantiles_and_generated_texts_cover_the_truth(scenario):
    check_coverage(scenario, 60)


@pytest.mark.parametrize("scenario", [NAIVE[0], NAIVE[-2]], ids=lambda scenario: scenario.name)
def test_a_candidate_as_good_as_its_counterpart_hardly_ever_fails(scenario):
    """Two of 60 samples have a probability of 3.5 % at a rate of 0.5 %, and of 45 % at 2.5 %."""
    at_level, at_usual_level = naive_alarms(scenario, 60, seed=1)
    assert at_level <= min(at_usual_level, 1 / 60)


def test_every_kind_of_distribution_is_there():
    for part in (
        "lognormal (sigma 1), 30 documents", "lognormal (sigma 2), 500 documents",
        "Pareto (index 1.5)", "divergence of an int8 classifier",
        "30 documents of 1 to 2,000", "2 of 40 documents hold", "one document, 30 windows",
        "30 x 20, shared fate", "60 x 20, shared fate", "60 x 10, shared fate 0.7",
        "by some 0.02", "weighted score",
    ):  # fmt: skip
        assert any(part in name for name in NAMES), part
    for part in ("50.0% quantile", "99.9% quantile", "one document", "largest share", "lengths of"):
        assert any(part in scenario.name for scenario in TAILS), part


def test_documents_of_one_item_that_hold_all_the_rest_are_mostly_flagged():
    found = coverage(divergences(60), 100, seed=2, compare=False)["mean"]
    assert found.flagged > 0.8
    assert coverage(divergences(160), 50, seed=2, compare=False)["mean"].flagged == 0.0


def test_coverage_counts_unflagged_misses():
    assert IntervalCoverage(
        covered=0.9, flagged=0.5, missed=0.04
    ).reliable_coverage == pytest.approx(0.92)
    assert not IntervalCoverage(covered=0.9, flagged=0.5, missed=0.04).is_valid
    assert IntervalCoverage(covered=0.5, flagged=0.9, missed=0.05).is_valid
    assert not IntervalCoverage(covered=0.9, flagged=0.0, missed=0.1).is_valid
    assert math.isnan(IntervalCoverage(covered=0.9, flagged=1.0, missed=0.0).reliable_coverage)


@pytest.mark.parametrize(("documents", "per_document", "shared"), NULLS)
def test_a_true_null_is_rejected_in_about_one_run_of_twenty(documents, per_document, shared):
    by_document, _ = rejections(documents, per_document, shared, 400, seed=1)
    assert 0.02 <= by_document <= 0.085


def test_mcnemar_s_test_by_item_is_not_right_for_documents():
    assert rejections(30, 20, 0.7, 100, seed=1)[1] > 0.3


def test_an_unchanged_model_raises_no_alarm_and_a_broken_one_fails():
    alarmed, _ = runs(20, 0.0, 858)
    _, failed = runs(5, 0.04, 858)
    assert alarmed <= 1 / 20
    assert failed >= 0.98


def test_the_command_prints_what_was_asked_for(capsys):
    main(["--repeats", "20", "--only", "weighted", "--seed", "3"])
    first = capsys.readouterr().out
    assert "| weighted score, 60 items" in first
    assert "lognormal" not in first
    assert "true null" not in first
    main(["--repeats", "20", "--only", "weighted", "--seed", "3"])
    assert capsys.readouterr().out == first
    main(["--repeats", "2", "--only", "naive counterpart under another seed, 40"])
    naive = capsys.readouterr().out
    assert "false alarms at 99%" in naive
    assert "coverage" not in naive
    with pytest.raises(SystemExit):
        main(["--only", "nothing of the kind"])
    assert "no name of the data contains it" in capsys.readouterr().err
