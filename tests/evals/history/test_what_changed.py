"""What changed since the reference."""

import math
from dataclasses import replace

import numpy as np
import pytest

from compression_gates.evals.history.database import History
from compression_gates.evals.history.what_changed import (
    GONE,
    IMPROVED,
    INCOMPARABLE,
    MAX_RUNS,
    NEW,
    REGRESSED,
    UNCHANGED,
    UNMEASURED,
    what_changed,
)
from tests.evals.history.small import case_of, run_at, size_of


@pytest.fixture
def history(tmp_path):
    with History(tmp_path / "history.db") as opened:
        yield opened


def answers(lost: int, items: int = 1000, seed: int | None = None, churn: int = 5, **changes):
    """A gate on answers, of which some are lost, and some change by chance."""
    values = np.zeros(items)
    values[:lost] = 1.0
    if seed is not None:
        chosen = np.random.default_rng(seed).choice(np.arange(lost, items), 2 * churn, False)
        values[chosen[:churn]], values[chosen[churn:]] = 1.0, -1.0
    return case_of(values, **changes)


def only(changes):
    [change] = changes
    return change


def test_the_first_run_has_nothing_to_compare_with(history):
    found = what_changed(run_at(1), [answers(0)], history)
    assert found.reference is None
    assert found.regressions == []
    assert found.unproven() == []
    assert found.lines() == ["the first run of this profile, so there is nothing to compare with"]
    assert only(found.rows())["history"]["reference"] is None


def test_an_unchanged_run(history):
    history.append(run_at(1), [answers(3), size_of(2.0)])
    found = what_changed(run_at(2), [answers(3), size_of(2.0)], history)
    assert [change.category for change in found.changes] == [UNCHANGED, UNCHANGED]
    assert found.lines() == [
        "nothing got worse beyond noise in 2 of 2 gates (Holm: false alarms in at most 1% of "
        "months of 30 runs)",
        "compared with run 1 (2026-11-01, commit 00000001), the first run, because none was "
        "accepted",
        "unchanged within noise: 2 gates, 1 compared item by item",
    ]


def test_every_category(history):
    names = ("worse", "better", "same", "other data", "unjudged", "gone")
    history.append(run_at(1), [answers(50, candidate=name) for name in names])
    history.accept(1, "2026-11-02T00:00:00Z")
    now = [
        answers(120, candidate="worse"), answers(0, candidate="better"),
        answers(50, candidate="same"), answers(50, candidate="other data", data="x"),
        replace(answers(50, candidate="unjudged"), outcome="not judged"),
        answers(0, candidate="new"),
    ]  # fmt: skip
    found = what_changed(run_at(2), now, history)
    expected = {
        "worse": REGRESSED, "better": IMPROVED, "same": UNCHANGED, "other data": INCOMPARABLE,
        "unjudged": UNMEASURED, "new": NEW, "gone": GONE,
    }  # fmt: skip
    assert {change.candidate: change.category for change in found.changes} == expected
    assert found.lines() == [
        "WORSE (Holm: false alarms in at most 1% of months of 30 runs): "
        "worse exact_match_drop -5.00 pt -> -12.00 pt",
        "compared with run 1 (2026-11-01, commit 00000001), accepted",
        "improved: better exact_match_drop -5.00 pt -> +0.00 pt",
        "unchanged within noise: 1 gate, 1 compared item by item",
        "not comparable, the data differ: other data exact_match_drop",
        "not measured, an error or not judged in this run: unjudged exact_match_drop",
        "new, not in the reference: new exact_match_drop",
        "gone, not in this run: gone exact_match_drop",
    ]
    [row] = found.rows()
    assert row["history"]["reference"] == 1
    assert row["history"]["accepted"] is True
    assert {c["candidate"]: c["category"] for c in row["history"]["changes"]} == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reference_without_a_finite_value_is_nothing_to_compare_with(history, value):
    """Otherwise a gate that is NaN in every run would be unchanged."""
    broken = replace(answers(0, candidate="broken"), value=value, low=value, high=value)
    history.append(run_at(1), [broken, answers(0)])
    found = what_changed(run_at(2), [broken, answers(0)], history)
    [change] = found.of(UNMEASURED)
    assert (change.candidate, change.reason) == ("broken", "no finite value in the reference")
    assert found.compared == 1
    assert found.lines()[0].startswith("nothing got worse beyond noise in 1 of 2 gates (Holm")


def test_a_value_that_is_no_number_any_more_is_worse(history):
    history.append(run_at(1), [answers(0)])
    now = replace(answers(0), value=math.nan, low=math.nan, high=math.nan, items=None)
    assert only(what_changed(run_at(2), [now], history).changes).category == REGRESSED


def test_the_reference_is_the_accepted_run(history):
    for day, lost in ((1, 0), (2, 60), (3, 60)):
        history.append(run_at(day), [answers(lost)])
    assert what_changed(run_at(4), [answers(60)], history).regressions
    history.accept(2, "2026-11-04T00:00:00Z")
    found = what_changed(run_at(4), [answers(60)], history)
    assert found.regressions == []
    assert found.reference.id == 2


def test_another_profile_is_not_compared(history):
    history.append(run_at(1, profile="other"), [answers(0)])
    assert what_changed(run_at(2), [answers(90)], history).reference is None


def test_nothing_comparable_is_unproven(history):
    history.append(run_at(1), [answers(0, candidate="old")])
    found = what_changed(run_at(2), [answers(0)], history)
    assert found.compared == 0
    assert "no gate has a comparable value in both runs" in found.unproven()


def test_a_step_is_dated_with_the_commit_of_its_run(history):
    for day in range(1, 13):
        history.append(run_at(day), [answers(40 if day >= 9 else 0, seed=day)])
    change = only(what_changed(run_at(13), [answers(40, seed=13)], history).regressions)
    assert change.step == "run 9 (2026-11-09, commit 00000009)"
    assert str(change).endswith(", since run 9 (2026-11-09, commit 00000009)")


def test_a_step_of_this_run_is_named_so(history):
    for day in range(1, 10):
        history.append(run_at(day), [answers(0, seed=day)])
    change = only(what_changed(run_at(10), [answers(60, seed=10)], history).regressions)
    assert change.step == "this run (2026-11-10, commit 0000000a)"


def test_a_drift_is_named_as_one(history):
    for day in range(1, 18):
        history.append(run_at(day), [answers(3 * day, seed=day, items=2000)])
    change = only(what_changed(run_at(18), [answers(54, seed=18, items=2000)], history).regressions)
    assert change.drift in (15, 18)
    assert f"drifting over {change.drift} runs" in str(change)


def test_runs_of_other_items_are_left_out_of_the_series(history):
    for day in range(1, 10):
        case = answers(0, seed=day) if day != 5 else answers(900, protocol="other")
        history.append(run_at(day), [case])
    found = what_changed(run_at(10), [answers(0, seed=10)], history)
    assert found.regressions == []


def test_only_the_latest_runs_are_read(history):
    """A step that is older than all of them is still found against the reference."""
    history.append(run_at(1), [answers(0)])
    for _ in range(MAX_RUNS + 5):
        history.append(run_at(2), [answers(60)])
    change = only(what_changed(run_at(3), [answers(60)], history).regressions)
    assert change.before == 0.0


def test_a_step_in_a_run_that_was_not_read_is_not_blamed_on_a_later_commit(history):
    for number in range(1, 51):
        day = (number - 1) % 28 + 1
        lost = 60 if number >= 5 else 0
        history.append(run_at(day), [answers(lost, seed=number)])
    change = only(what_changed(run_at(29), [answers(60, seed=51)], history).regressions)
    assert change.step == "run 21 (2026-11-21), or an earlier run that was not compared"


def test_a_step_after_a_run_without_a_value_has_no_commit(history):
    for day in range(1, 13):
        case = answers(40 if day >= 9 else 0, seed=day)
        history.append(run_at(day), [] if day == 8 else [case])
    change = only(what_changed(run_at(13), [answers(40, seed=13)], history).regressions)
    assert change.step == "run 9 (2026-11-09), or an earlier run that was not compared"


def test_a_candidate_whose_name_is_no_valid_unicode(history):
    history.append(run_at(1), [answers(0, candidate="m\udc80")])
    found = what_changed(run_at(2), [answers(0, candidate="m\udc80")], history)
    assert only(found.changes).category == UNCHANGED


class TestBaseline:
    def test_a_baseline_that_moved_is_said_first(self, history):
        history.append(
            run_at(1), [answers(0, baseline=0.9), answers(0, candidate="b", baseline=0.9)]
        )
        now = [answers(60, baseline=0.95), answers(0, candidate="b", baseline=0.95)]
        found = what_changed(run_at(2, torch="2.14.0"), now, history)
        assert found.moved == ["base EM 90.00% -> 95.00% on the same data (torch 2.13.0 -> 2.14.0)"]
        assert found.lines()[0].startswith("BASELINE MOVED: base EM 90.00% -> 95.00%")
        assert found.lines()[1].startswith("WORSE")

    def test_the_environment_may_be_the_same(self, history):
        history.append(run_at(1), [answers(0, baseline=0.9)])
        found = what_changed(run_at(2), [answers(0, baseline=0.91)], history)
        assert "(the versions and the machine are the same)" in only(found.moved)

    @pytest.mark.parametrize(
        "change",
        [
            {"baseline": 0.9 + 1e-6},  # rounding in another order
            {"baseline": math.nan},
            {"baseline": 0.5, "data": "other"},
        ],
    )
    def test_what_is_no_move(self, history, change):
        history.append(run_at(1), [answers(0, baseline=0.9)])
        assert what_changed(run_at(2), [answers(0, **change)], history).moved == []

    def test_the_worst_of_several_data_sets_is_no_move(self, history):
        """Such a metric has no item values, and the next run may judge another data set."""
        history.append(run_at(1), [replace(answers(0, baseline=0.9), items=None)])
        now = [replace(answers(0, baseline=0.5), items=None)]
        assert what_changed(run_at(2), now, history).moved == []

    def test_another_profile_content_is_said(self, history):
        history.append(run_at(1), [answers(0)])
        found = what_changed(run_at(2, profile_digest="0"), [answers(0)], history)
        assert "the profile has changed since the reference" in found.lines()


def test_timings_and_sizes_over_the_runs(history):
    for day in range(1, 9):
        history.append(run_at(day), [size_of(2.0 if day < 5 else 1.9)])
    change = only(what_changed(run_at(9), [size_of(1.9)], history).regressions)
    assert change.step == "run 5 (2026-11-05, commit 00000005)"


def test_each_gate_is_read_once_and_has_its_series(history, monkeypatch):
    for day in range(1, 9):
        history.append(run_at(day), [size_of(2.0 if day < 5 else 1.9), answers(0)])
    history.accept(6, "2026-11-08T00:00:00Z")
    read = []
    gate = History.gate
    monkeypatch.setattr(
        History, "gate", lambda self, key, *a, **k: read.append(key) or gate(self, key, *a, **k)
    )
    new = answers(0, candidate="new")
    found = what_changed(run_at(9), [size_of(1.9), answers(0), new], history)
    assert read == [size_of(1.9).key, answers(0).key, new.key]
    sizes, scores, news = found.series
    assert [point.run for point in sizes.points] == [*range(1, 9), 0]
    assert [step.run for step in sizes.steps] == [5]
    assert (len(scores.points), len(news.points)) == (9, 1)


def test_the_first_run_has_series_of_one_point(history):
    [series] = what_changed(run_at(1), [answers(0)], history).series
    assert len(series.points) == 1
