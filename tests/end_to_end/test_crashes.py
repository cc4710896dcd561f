"""A run whose processes end badly is not released, and says why."""

import json

from tests.end_to_end.conftest import TWO_RECIPES
from tests.processes import run_forking_workers

PROFILE = (
    TWO_RECIPES
    + """
[suite.gates]
flips = { limit = 0.3, tier = "supporting" }
compression_ratio = 0.99
"""
)
CRASHING = """
import os


def test_flips(request, pair, gate):
    if "int8" in request.node.name:
        os._exit(9)
    gate.holds(gate.read(pair))
"""


def test_a_crash_of_a_worker_is_named_and_ends_only_its_case(tmp_path, measured):
    (tmp_path / "mine.toml").write_text(PROFILE)
    (tmp_path / "test_mine.py").write_text(CRASHING)
    words = ["--profile", "mine.toml", "--store", measured, "--report", "report"]
    words += ["--", "test_mine.py", "-n", "1", "-p", "no:cacheprovider"]
    done = run_forking_workers("compression_gates", words, tmp_path)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 5 passed" in done.stdout
    crash = "worker 'gw0' crashed while running 'test_mine.py::test_flips[bert-tiny-rtn-int8]'"
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("decision "))
    assert line.startswith(f"decision    cannot tell: {crash}; only 5 of 6 gates were run")
    assert f"\n{crash}\n" in done.stdout
    rows = map(json.loads, (tmp_path / "report" / "report.jsonl").read_text().splitlines())
    (decision,) = (row["decision"] for row in rows if "decision" in row)
    assert decision["word"] == "cannot tell"
    assert crash in decision["reason"]
