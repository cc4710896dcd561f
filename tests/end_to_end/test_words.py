"""What a run prints and writes: on terminals of several widths, in the report and for CI."""

import json
import xml.etree.ElementTree as ET

import pytest

from tests.end_to_end.conftest import PROFILE
from tests.processes import run_forking_workers

BROKEN = "bert-tiny-magnitude-90"
OWN_FAILURES = PROFILE.split("[[suite.known_failures]]")[0]


@pytest.fixture
def lines_of(gates, profile, monkeypatch):
    """``lines_of(columns, *arguments)``: what is printed on a terminal of that width."""

    def run(columns, *arguments):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.delenv("CI", raising=False)
        return gates("--profile", profile, *arguments).stdout.splitlines()

    return run


def test_tables_and_reasons_fit_the_terminal(lines_of, profile):
    profile.write_text(OWN_FAILURES)
    for columns in (80, 120, 160):
        lines = lines_of(columns, "-k", "bert-tiny-magnitude and not control")
        start = next(i for i, line in enumerate(lines) if line.startswith("bert-tiny "))
        end = next(i for i, line in enumerate(lines) if line.startswith("✗ "))
        assert max(map(len, lines[start:end])) <= columns
        (failed,) = (line for line in lines if line.startswith("FAILED") and "accuracy" in line)
        reason = "accuracy -23.50 pt (limit -10.00 pt)"
        assert lines.count(reason) == 1  # of the case, in full
        assert sum(reason in line for line in lines) == 1 + (columns == 160)
        if columns == 160:
            assert failed.endswith(f"[{BROKEN}] - {reason}")


@pytest.mark.parametrize(
    "options", [(), ("--tb=no",), ("--no-summary",), ("-p", "no:terminal")], ids=" ".join
)
def test_a_reason_is_printed_where_it_adds_something(lines_of, profile, monkeypatch, options):
    """Beside the table, it is in the evidence of the case, or else in a list; an annotation of
    GitHub Actions and pytest's own summary in CI repeat it for their readers."""
    profile.write_text(OWN_FAILURES)
    reason, listed = "accuracy -23.50 pt (limit -10.00 pt)", "failed      "
    chosen = ("-k", f"accuracy_drop and {BROKEN}", *options)
    lines = [line for line in lines_of(80, *chosen) if reason in line]
    assert lines == ([f"{listed}{BROKEN}: {reason}"] if options else [reason])


def test_ci_gets_the_reason_alone_in_the_short_summary(lines_of, profile, monkeypatch):
    profile.write_text(OWN_FAILURES)
    lines = lines_of(80, "-k", f"accuracy_drop and {BROKEN}")
    monkeypatch.setenv("CI", "true")
    done = lines_of(80, "-k", f"accuracy_drop and {BROKEN}", "-vv")
    assert lines[-1].split()[1:3] == done[-1].split()[1:3] == ["1", "failed,"]
    (index,) = (i for i, line in enumerate(done) if line.startswith("FAILED tests"))
    assert done[index].endswith(" - accuracy -23.50 pt (limit -10.00 pt)")
    assert done[index + 1].startswith("=")


def test_the_report_has_the_items_that_got_worse_also_over_workers(gates, profile, tmp_path):
    profile.write_text(OWN_FAILURES)
    for name, more in (("one", ()), ("two", ("-n", "2"))):
        report = tmp_path / name
        done = gates("--profile", profile, "--report", report, "-k", f"{BROKEN} and not control",
                     "--junitxml", tmp_path / f"{name}.xml", *more,
                     run=run_forking_workers)  # fmt: skip
        assert "PytestWarning" not in done.stdout
        assert " warning" not in done.stdout.splitlines()[-1]
        rows = {
            row["verdict"]["metric"]: row
            for row in map(json.loads, (report / "report.jsonl").read_text().splitlines())
            if "verdict" in row
        }
        accuracy = rows["accuracy_drop"]
        assert len(accuracy["regressions"]) == accuracy["facts"]["worse"]
        assert all(item["baseline"] == item["expected"] for item in accuracy["regressions"])
        assert rows["compression_ratio"]["regressions"] == []
        text = (report / "report.md").read_text()
        assert f"### {BROKEN}: accuracy" in text
        worst = accuracy["regressions"][0]
        assert f"\nrow {worst['row']}\n\n{worst['prompt']}\n" in text
        case = next(c for c in ET.parse(tmp_path / f"{name}.xml").iter("testcase")
                    if c.get("name") == f"test_accuracy_drop[{BROKEN}]")  # fmt: skip
        assert case.find("failure").get("message") == "accuracy -23.50 pt (limit -10.00 pt)"
        names = {p.get("name") for p in case.iter("property")}
        assert {"value", "limit", "outcome"} <= names
        assert "regressions" not in names


def test_the_rerun_of_a_known_failure_carries_runxfail(gates, profile, tmp_path):
    chosen = ("-k", f"accuracy_drop and {BROKEN}")
    done = gates("--profile", profile, *chosen, "--report", tmp_path / "r")
    assert done.returncode == 0
    text = (tmp_path / "r" / "report.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("  rerun "))
    assert f"'tests/gates/test_accuracy_drop.py::test_accuracy_drop[{BROKEN}]' --runxfail" in line
    again = gates("--profile", profile, *chosen, "--runxfail")
    assert again.returncode == 1
    assert "measured   -23.50 pt" in again.stdout


@pytest.mark.parametrize(
    "chosen", [("-k", "no-such"), ("-m", "nonsense"), ("-k", "no-such", "-n", "2")]
)
def test_a_choice_of_nothing_lists_what_there_is(gates, profile, chosen):
    done = gates("--profile", profile, *chosen, run=run_forking_workers)
    assert done.returncode == 5, done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("candidates  "))
    assert "bert-tiny-rtn-int8" in line.split("  ")[1].split(", ")
    assert "metrics     artifact_differences, js_divergence, accuracy_drop, flips" in done.stdout


def test_a_candidate_without_losses_is_not_proven_rather_than_failed_by_strict(gates, profile):
    profile.write_text(PROFILE.replace("accuracy_drop = 0.1", "accuracy_drop = 0.01"))
    done = gates("--profile", profile, "--strict", "-k", "accuracy_drop and bert-tiny-rtn-int8")
    assert done.returncode == 1
    assert "✗≈ +0.00 (-0 +0)" in done.stdout
    assert "accuracy not proven: +0.00 pt, 95% interval -" in done.stdout
    assert " items (now 200) would settle it, assuming a true value of +0.00 pt" in done.stdout
    assert "gate failed" not in done.stdout
