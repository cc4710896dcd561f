"""Reading an earlier report."""

import json

import numpy as np
import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.earlier import read_earlier_run
from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.report import report_folder
from compression_gates.evals.report.report import Entry
from compression_gates.evals.report.report_rows import read_report
from compression_gates.evals.statistics.item_values import SCORE_CHANGE, ItemValues

ORIGIN = {"baseline": "b", "data": "d", "protocol": "p"}

RELEASE = {"decision": {"word": "release", "reason": "", "candidates": {}}}


def night(folder, rows=(), **changes):
    """A report of one gate, with its items."""
    values = np.array([0, 1, 0, 0], np.float32)
    units = np.arange(4, dtype=np.int32)
    items = ItemValues(SCORE_CHANGE, values, np.ones(4, np.int32), units, ORIGIN)
    reading = MetricResult(items.estimate(), 1.0, 0.75)
    verdict = verdict_of("model", Gate("f1_drop", 0.02), reading)
    entry = Entry("base", "model", verdict, False, origin={"baseline": "b"}, **changes)
    report_folder.write(folder, [entry], "", rows, items={("model", "f1_drop"): items})
    return verdict


def test_what_was_written_is_read(tmp_path):
    verdict = night(tmp_path)
    found = read_earlier_run(tmp_path)
    assert found.note == ""
    record = found.records["model", "f1_drop"]
    assert (record.value, record.low, record.high) == (verdict.value, verdict.low, verdict.high)
    assert (record.n, record.outcome, record.limit) == (4, verdict.outcome, 0.02)
    assert record.origin == {"baseline": "b"}
    assert record.items.values.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("exists", [True, False])
def test_the_first_night_is_no_error(tmp_path, exists):
    folder = tmp_path if exists else tmp_path / "nowhere"
    found = read_earlier_run(folder)
    assert found.records == {}
    assert found.note.startswith(f"no earlier report in {folder}")


@pytest.mark.parametrize("text", ["", '{"defect": "x"}\n'])
def test_a_report_without_a_verdict_is_no_error(tmp_path, text):
    (tmp_path / "report.jsonl").write_text(text)
    found = read_earlier_run(tmp_path)
    assert found.records == {}
    assert "has no verdicts" in found.note


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"nonsense\n", "JSON"),
        (b"[1]\n", "a JSON object"),
        (b'{"verdict": {"a": 1}}\n', "a verdict"),
        (b'{"verdict": {"candidate": "m", ', "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_a_damaged_report_is_one_error(tmp_path, content, what):
    (tmp_path / "report.jsonl").write_bytes(content)
    expected = f"^earlier report .*report.jsonl: line 1 is not {what}; delete the damaged report$"
    with pytest.raises(EvalError, match=expected):
        read_earlier_run(tmp_path)


def test_a_file_is_no_report(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EvalError, match=r"earlier report .*file: not a folder"):
        read_earlier_run(tmp_path / "file")


def test_damaged_items_are_one_error(tmp_path):
    night(tmp_path)
    (tmp_path / "items.npz").write_bytes(b"PK")
    with pytest.raises(EvalError, match=r"items.npz is damaged"):
        read_earlier_run(tmp_path)


def test_without_its_items_a_report_is_still_read(tmp_path):
    night(tmp_path)
    (tmp_path / "items.npz").unlink()
    found = read_earlier_run(tmp_path)
    assert found.records["model", "f1_drop"].items is None
    assert found.note == ""


def test_items_of_another_report_are_left_out(tmp_path):
    """As a run that was killed while it wrote its report leaves them."""
    night(tmp_path)
    row = json.loads((tmp_path / "report.jsonl").read_text().splitlines()[1])
    row["verdict"]["value"] = 0.5
    (tmp_path / "report.jsonl").write_text(json.dumps(row) + "\n")
    found = read_earlier_run(tmp_path)
    assert found.records["model", "f1_drop"].items is None
    assert "items.npz belongs to another report" in found.note


def test_a_report_of_an_older_version_is_read(tmp_path):
    verdict = {"candidate": "m", "metric": "flips", "limit": 0.1, "value": 0.05, "low": 0.02,
               "high": 0.09, "confidence": 0.95, "n": 100, "few": False}  # fmt: skip
    (tmp_path / "report.jsonl").write_text(json.dumps({"verdict": verdict}) + "\n")
    record = read_earlier_run(tmp_path).records["m", "flips"]
    assert (record.value, record.unreliable, record.origin, record.items) == (0.05, "", {}, None)


@pytest.mark.parametrize(
    "change", [{"confidence": 1.0}, {"confidence": -0.5}, {"low": 1.0, "high": 0.0}, {"n": 1e999}]
)
def test_an_interval_that_is_none_is_one_error(tmp_path, change):
    night(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    rows[1]["verdict"] |= change
    (tmp_path / "report.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EvalError, match=r"line 2 is not a verdict"):
        read_earlier_run(tmp_path)


def test_a_run_that_does_not_finish_leaves_only_the_verdicts_of_the_compared_report(tmp_path):
    """As a run that is killed leaves them if it is compared with the report that it replaces."""
    verdict = night(tmp_path, rows=[RELEASE, {"notes": ["decision    release"]}])
    report_folder.write_not_started(tmp_path, "it was killed", keep=True, ending="finish")
    assert "release" not in (tmp_path / "report.jsonl").read_text()
    rows = read_report(tmp_path).rows
    assert [sorted(row.keys() & {"schema", "error", "verdict"}) for row in rows] == [
        ["schema"], ["error"], ["verdict"],
    ]  # fmt: skip
    assert rows[1]["error"].startswith("the run did not finish: it was killed")
    assert "the verdicts are those of the earlier report" in rows[1]["error"]
    record = read_earlier_run(tmp_path).records["model", "f1_drop"]
    assert record.value == verdict.value
    assert record.items.values.tolist() == [0, 1, 0, 0]
    report_folder.write_not_started(tmp_path, "again", keep=True)
    assert [row["error"] for row in read_report(tmp_path).rows if "error" in row] == [
        "the run did not start: again; the verdicts are those of the earlier report"
    ]
    assert read_earlier_run(tmp_path).records["model", "f1_drop"].items is not None


@pytest.mark.parametrize("name", ["report.jsonl", "items.npz"])
def test_a_damaged_file_of_the_compared_report_is_kept_as_it_is(tmp_path, name):
    """The run does not start because of it, and its error names the file."""
    night(tmp_path, rows=[RELEASE])
    (tmp_path / name).write_bytes(b"PK")
    report_folder.write_not_started(tmp_path, "damaged", keep=True)
    assert (tmp_path / name).read_bytes() == b"PK"
    assert "did not start" in (tmp_path / "report.md").read_text()
    assert b"release" not in (tmp_path / "report.jsonl").read_bytes()


def test_a_run_that_does_not_start_says_so_where_there_was_no_report(tmp_path):
    report_folder.write_not_started(tmp_path, "why", keep=True)
    assert read_report(tmp_path).rows[1] == {"error": "the run did not start: why"}
    assert "has no verdicts" in read_earlier_run(tmp_path).note
