"""Tables and exports of a history."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.history.database import History
from compression_gates.evals.history.listing import all_series, export, show, table_of_runs
from tests.evals.history.small import case_of, run_at, size_of

HOSTILE = "m\x1b[31m\u202e::error::"


@pytest.fixture
def history(tmp_path):
    with History(tmp_path / "history.db") as opened:
        for day in range(1, 9):
            cases = [case_of([0, 1] * 40), size_of(2.0 if day < 5 else 1.5)]
            opened.append(run_at(day, exit_status=int(day == 6)), cases)
        opened.accept(3, "2026-11-09T00:00:00Z", "looks right")
        yield opened


def test_an_empty_history(tmp_path):
    with History(tmp_path / "empty.db") as empty:
        assert table_of_runs(empty, 100) == "no run is stored yet"
        assert all_series(empty) == []
        assert export(empty, "jsonl") == ""
        with pytest.raises(EvalError, match="'latest' is no run"):
            show(empty, "latest", 100)


def test_the_table_of_runs(history):
    lines = table_of_runs(history, 200).splitlines()
    assert lines[0].split() == ["run", "time", "(UTC)", "commit", "branch", "profile", "result",
                                "passed", "failed", "reference"]  # fmt: skip
    assert len(lines) == 2 + 8
    assert lines[4].endswith("reference accepted: looks right")
    assert "2026-11-06 02:00  00000006  main    nightly  red (1)" in lines[7]


def test_decisions_have_a_column_if_there_are_any(history):
    history.append(run_at(9, decision="cannot tell: a reason"), [])
    lines = table_of_runs(history, 200).splitlines()
    assert "decision" in lines[0]
    assert "cannot tell" in lines[-1]
    assert "a reason" not in lines[-1]
    assert "decision    cannot tell: a reason" in show(history, "latest", 200)


def test_a_run_is_shown(history):
    text = show(history, "3", 120)
    assert "run         3" in text
    assert "accepted    2026-11-09 00:00: looks right" in text
    assert "model      exact_match_drop   -50.00 pt" in text
    assert show(history, "latest", 120).startswith("run         8")


@pytest.mark.parametrize(("what", "heads"), [
    ("model", ["exact_match_drop", "compression_ratio"]), ("compression_ratio", ["model"]),
])  # fmt: skip
def test_a_metric_or_candidate_is_shown_with_its_steps(history, what, heads):
    lines = show(history, what, 120).splitlines()
    assert lines[0].split() == ["run", "date", "commit", *heads]
    assert lines[2].split()[:3] == ["1", "2026-11-01", "00000001"]
    name = "model" if what == "compression_ratio" else "compression_ratio"
    assert lines[-1] == f"step        {name}: 2.00x -> 1.50x at run 5 (2026-11-05, commit 00000005)"


@pytest.mark.parametrize("what", ["EM", "em", "exact match", "Exact_Match_Drop"])
def test_a_metric_can_be_named_as_in_tables_and_messages(history, what):
    assert show(history, what, 120) == show(history, "exact_match_drop", 120)
    assert show(history, "MODEL", 120) == show(history, "model", 120)


def test_a_candidate_with_the_short_name_of_a_metric_is_itself(history):
    history.append(run_at(9), [replace(case_of([0, 1] * 40), candidate="EM")])
    assert show(history, "EM", 120).splitlines()[0].split()[3:] == ["exact_match_drop"]
    with pytest.raises(EvalError, match="it can be exact_match_drop or EM;"):
        show(history, "em", 120)


@pytest.mark.parametrize(("what", "hint"), [
    ("exact_match", "the nearest name is exact_match_drop; "),
    ("modle", "the nearest name is model; "),
    ("sizes", "the nearest name is compression_ratio; "), ("quux", ""), ("F1", ""),
])  # fmt: skip
def test_an_unknown_name_lists_what_there_is(history, what, hint):
    with pytest.raises(EvalError) as caught:
        show(history, what, 120)
    assert str(caught.value).endswith(
        f"'{what}' is no run, and no metric or candidate of the last 30 runs; {hint}metrics: "
        "exact_match_drop, compression_ratio; candidates: model; without a further argument, the "
        "command lists the runs"
    )


def test_a_candidate_that_is_no_longer_in_the_table_is_unknown(tmp_path):
    with History(tmp_path / "history.db") as history:
        for run in range(31):
            cases = [size_of(2.0), *([size_of(2.0, "old")] if run == 0 else [])]
            history.append(run_at(run % 28 + 1), cases)
            if run == 29:
                assert len(show(history, "old", 120).splitlines()) == 3
        with pytest.raises(EvalError, match=r"'old' .* of the last 30 runs; .* candidates: model;"):
            show(history, "old", 120)


def test_profiles_have_series_of_their_own(tmp_path):
    """Another profile measures other data, so no step is between its runs and the others."""
    with History(tmp_path / "two.db") as history:
        for day in range(1, 21):
            is_large = day % 2 == 0
            profile = "large" if is_large else "nightly"
            history.append(run_at(day, profile=profile), [size_of(4.0 if is_large else 2.0)])
        series = all_series(history)
        assert [(item.profile, len(item.points)) for item in series] == [
            ("large", 10),
            ("nightly", 10),
        ]
        lines = show(history, "compression_ratio", 120).splitlines()
    assert lines[0].split()[3:] == ["model", "(large)", "model", "(nightly)"]
    assert not [line for line in lines if line.startswith("step")]


def test_a_break_is_shown_instead_of_a_step(history):
    for day in range(9, 14):
        history.append(run_at(day), [replace(size_of(1.0), origin={"baseline": "x"})])
    lines = show(history, "compression_ratio", 120).splitlines()
    assert lines[-2].startswith("step        model: 2.00x -> 1.50x at run 5")
    assert lines[-1] == "break       model: the baseline differs from run 9 on"


def test_only_the_gates_that_are_shown_are_read(history, monkeypatch):
    read = []
    gate = History.gate
    monkeypatch.setattr(
        History, "gate", lambda self, key, *a, **k: read.append(key) or gate(self, key, *a, **k)
    )
    show(history, "compression_ratio", 120)
    assert read == [("model", "compression_ratio")]


def test_what_is_not_there_is_one_error(history):
    with pytest.raises(EvalError, match="'speedup' is no run, and no metric or candidate of"):
        show(history, "speedup", 100)
    with pytest.raises(EvalError, match="there is no run 99"):
        show(history, "99", 100)


def test_exports_hold_every_case(history):
    rows = [json.loads(line) for line in export(history, "jsonl").splitlines()]
    assert len(rows) == 16
    assert rows[5]["run"] == 3
    assert rows[5]["accepted"] is True
    assert rows[0]["value"] == 0.5
    assert rows[0]["origin_baseline"] == "b"
    table = list(csv.DictReader(io.StringIO(export(history, "csv"))))
    assert len(table) == 16
    assert [float(row["value"]) for row in table] == [row["value"] for row in rows]


def test_numbers_that_are_missing_are_null(history):
    history.append(run_at(9), [replace(size_of(1.0), value=math.nan, high=math.inf)])
    row = json.loads(export(history, "jsonl").splitlines()[-1])
    assert row["value"] is None
    assert row["high"] is None
    assert list(csv.DictReader(io.StringIO(export(history, "csv"))))[-1]["value"] == ""


def test_foreign_names_are_escaped(history):
    case = case_of([0, 1] * 40, candidate=HOSTILE)
    history.append(run_at(9, branch="=1+1", commit="@x"), [case])
    texts = [table_of_runs(history, 200), show(history, "9", 120), show(history, HOSTILE, 120)]
    texts += [show(history, "exact_match_drop", 120), export(history, "csv")]
    for text in texts:
        assert "\x1b" not in text
        assert "\u202e" not in text
    row = list(csv.DictReader(io.StringIO(export(history, "csv"))))[-1]
    assert (row["branch"], row["commit"]) == ("'=1+1", "'@x")


def test_names_of_columns_are_escaped(history):
    case = replace(size_of(1.0), origin={"\x1b[31m": "x", "baseline": "b"})
    history.append(run_at(9), [case])
    heads, *rows = csv.reader(io.StringIO(export(history, "csv")))
    assert "origin_\\x1b[31m" in heads
    assert dict(zip(heads, rows[-1], strict=True))["origin_\\x1b[31m"] == "x"


def test_a_metric_of_a_package_that_is_gone(history):
    history.append(run_at(9), [replace(size_of(0.25), metric="zork")])
    assert "0.25" in show(history, "zork", 100)
    assert "zork" in show(history, "9", 120)
