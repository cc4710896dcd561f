"""Appending to a history, reading it, and accepting runs."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import Gate, unmeasured
from compression_gates.evals.history.database import History
from compression_gates.evals.history.runs import StoredCase
from tests.evals.history.small import ORIGIN, case_of, run_at, size_of


@pytest.fixture
def history(tmp_path):
    with History(tmp_path / "history.db") as opened:
        yield opened


def test_what_was_appended_is_read(history):
    run = run_at(3, exit_status=1, decision="do not release: x", manifest={"data": {"a": "b"}})
    cases = [case_of([0, 1, 0, -1], known="a reason", passed=False), size_of(2.0)]
    number = history.append(run, cases)
    [stored] = history.runs()
    assert stored == run.__class__(**{**vars(run), "id": number})
    assert history.cases(number) == cases
    read = history.gate(cases[0].key, items=True)[number]
    assert read == cases[0]
    np.testing.assert_array_equal(read.items.values, [0, 1, 0, -1])
    assert read.items.origin == ORIGIN
    assert read.items.same_items(cases[0].items)
    assert history.gate(cases[0].key)[number].items is None


def test_a_case_that_was_not_measured_is_read(history):
    verdict = unmeasured("model", Gate("flips", 0.1))
    history.append(run_at(1), [StoredCase.of(verdict, "base", False)])
    [case] = history.cases(1)
    assert math.isnan(case.value)
    assert math.isnan(case.baseline)
    assert case.limit == 0.1
    assert not case.has_value


def test_equal_items_are_stored_once(history):
    for day in range(1, 31):
        history.append(run_at(day), [case_of([0, 1] * 500)])
    history.append(run_at(31 - 1), [case_of([1, 0] * 500)])
    database = sqlite3.connect(history.path)
    assert database.execute("SELECT count(*) FROM item_values").fetchone() == (2,)


def test_texts_that_are_no_valid_unicode_are_escaped(history):
    history.append(
        run_at(1, branch="a\udcffb"), [case_of([0, 1], candidate="m\udc80", known="\ud800")]
    )
    assert history.runs()[0].branch == "a\\udcffb"
    assert history.cases(1)[0].candidate == "m\\udc80"
    assert list(history.gate(("m\udc80", "exact_match_drop"))) == [1]


def test_an_error_in_the_middle_appends_nothing(history):
    def cases():
        yield case_of([0, 1])
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        history.append(run_at(1), cases())
    assert history.runs() == []
    assert history.append(run_at(2), []) == 1


def test_a_full_disk_is_named(history):
    """The library rolls the transaction back itself, so that there is nothing to roll back."""
    history.append(run_at(1), [case_of([0, 1])])
    connection = history._connection
    [pages] = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    noise = np.random.default_rng(0).random(20_000)
    with pytest.raises(EvalError, match="database or disk is full"):
        history.append(run_at(2), [case_of(noise)])
    assert len(history.runs()) == 1


class TestReference:
    def test_it_is_the_first_run_until_one_is_accepted(self, history):
        assert history.reference("nightly") is None
        for day in (1, 2, 3):
            history.append(run_at(day), [])
        assert history.reference("nightly").id == 1
        history.accept(2, "2026-11-04T00:00:00Z", "better")
        assert history.reference("nightly").id == 2
        history.accept(1, "2026-11-05T00:00:00Z")
        reference = history.reference("nightly")
        assert reference.id == 1
        assert reference.acceptance.reason == ""
        assert history.run(2).acceptance.reason == "better"

    def test_each_profile_has_its_own(self, history):
        history.append(run_at(1), [])
        history.append(run_at(1, profile="other"), [])
        history.append(run_at(2, profile="other"), [])
        history.accept(3, "2026-11-04T00:00:00Z")
        assert history.reference("nightly").id == 1
        assert history.reference("other").id == 3

    @pytest.mark.parametrize(
        ("forced", "reason"), [(False, ""), (True, ""), (True, "  "), (False, "because")]
    )
    def test_a_red_run_is_not_accepted_without_force_and_reason(self, history, forced, reason):
        history.append(run_at(1, exit_status=1), [])
        with pytest.raises(EvalError, match=r"run 1 is red \(exit status 1\)"):
            history.accept(1, "2026-11-04T00:00:00Z", reason, forced)
        assert history.run(1).acceptance is None

    def test_a_red_run_is_accepted_by_force(self, history):
        history.append(run_at(1, exit_status=1), [])
        history.accept(1, "2026-11-04T00:00:00Z", "a known trade", forced=True)
        assert history.run(1).acceptance.forced
        history.append(run_at(2), [])
        history.accept(2, "2026-11-05T00:00:00Z", forced=True)
        assert not history.run(2).acceptance.forced  # it did not need it

    def test_a_run_that_does_not_exist_is_one_error(self, history):
        with pytest.raises(EvalError, match="there is no run 5"):
            history.accept(5, "2026-11-04T00:00:00Z")


ROOT = Path(__file__).parents[3]
WRITER = """
import sys, time
from pathlib import Path
from compression_gates.evals.history.database import History
from tests.evals.history.small import case_of, run_at

path, count, hangs = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "hangs"

def cases():
    for number in range(50):
        yield case_of([0, 1] * 2000 + [number], candidate=f"m{number}")
    if hangs:
        print("in the middle", flush=True)
        time.sleep(600)

with History(path) as history:
    for day in range(count):
        history.append(run_at(day + 1), cases())
"""


def writer(path, count: int, hangs: bool = False) -> subprocess.Popen:
    words = [sys.executable, "-c", WRITER, str(path), str(count), "hangs" if hangs else ""]
    # The gates set PYTHONSAFEPATH, by which the working folder is no place for modules.
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)


def test_a_writer_that_is_killed_leaves_the_history_as_it_was(history):
    history.append(run_at(1), [case_of([0, 1])])
    process = writer(history.path, 1, hangs=True)
    assert process.stdout.readline() == "in the middle\n"
    assert len(history.runs()) == 1  # readers are not blocked by a writer
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with History(history.path) as again:
        assert [run.id for run in again.runs()] == [1]
        assert len(again.cases(1)) == 1
        assert again.append(run_at(2), [case_of([0, 1])]) == 2
    database = sqlite3.connect(history.path)
    assert database.execute("SELECT count(*) FROM cases").fetchone() == (2,)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_several_writers_append_all_their_runs(tmp_path):
    path = tmp_path / "history.db"
    processes = [writer(path, 4) for _ in range(2)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with History(path) as history:
        runs = history.runs()
        assert len(runs) == 8
        assert all(len(history.cases(run.id)) == 50 for run in runs)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cases SET origin = 'no JSON'",
        "UPDATE cases SET n = 'many'",
        "UPDATE cases SET value = 'x'",
        "UPDATE item_values SET content = x'504b'",
        "UPDATE runs SET manifest = '[]'",
        "UPDATE runs SET exit_status = 'x'",
    ],
)
def test_damaged_rows_are_one_error(history, change):
    history.append(run_at(1), [case_of([0, 1])])
    database = sqlite3.connect(history.path)
    database.execute(change)
    database.commit()
    with pytest.raises(EvalError, match="damaged"):
        history.runs(), history.gate(("model", "exact_match_drop"), items=True)
