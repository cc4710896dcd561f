"""The comparison with earlier runs through the real command line."""

import json

from compression_gates.evals.history.database import History
from compression_gates.evals.report.__main__ import main as make_page_again
from compression_gates.fixtures.suite import command

PROFILE = """
[data.reviews]
source = "reviews"
count = 200

[[suite]]
kind = "classifier"
baselines = ["bert-tiny"]
recipes = [{{ method = "magnitude", sparsity = {sparsity}, name = "pruned" }}]
labels = "reviews"
gates = {{ js_divergence = 0.6, accuracy_drop = 0.45, flips = 0.49 }}
"""


def test_a_night_after_another(gates, tmp_path):
    """One folder for all nights, of which one is judged by two workers, and the next one is broken
    although every gate passes."""
    profile, night = tmp_path / "nightly.toml", tmp_path / "night"
    words = ("--profile", profile, "--report", night, "--since", night)
    profile.write_text(PROFILE.format(sparsity=0.2))
    first = gates(*words)
    assert first.returncode == 0, first.stdout
    assert f"since       no earlier report in {night}" in first.stdout
    proven = gates(*words[:2], "--since", tmp_path / "nowhere", "--strict", "-k", "flips")
    assert proven.returncode == 1
    assert "FAILED: --strict requires" in proven.stdout
    quiet = gates(*words, "-n", "2")
    assert quiet.returncode == 0, quiet.stdout
    said = "nothing got worse beyond noise in 4 gates, 3 compared item by item"
    assert said in quiet.stdout
    profile.write_text(PROFILE.format(sparsity=0.9))
    broken = gates(*words)
    assert broken.returncode == 1, broken.stdout
    assert "since       WORSE (Holm" in broken.stdout
    assert "4 passed" in broken.stdout
    (night / "report.jsonl").write_text("cut")
    damaged = gates(*words)
    assert damaged.returncode == 4
    assert "report.jsonl: line 1 is not JSON" in damaged.stderr


def test_a_history_of_nights(gates, tmp_path, capsys):
    """The first night, which a worker judges, one without a change, one that is broken although
    every gate passes, and one after the broken one was accepted."""
    profile, file = tmp_path / "nightly.toml", tmp_path / "nights" / "history.db"
    report = tmp_path / "report"
    words = ("--profile", profile, "--history", file)
    profile.write_text(PROFILE.format(sparsity=0.2))
    first = gates(*words, "--strict", "-n", "1")
    assert first.returncode == 0, first.stdout
    assert "history     the first run of this profile" in first.stdout
    assert f"history     stored as run 1 in {file}" in first.stdout
    quiet = gates(*words, "--report", report)
    assert quiet.returncode == 0, quiet.stdout
    assert "unchanged within noise: 4 gates, 3 compared item by item" in quiet.stdout
    rows = [json.loads(line) for line in (report / "report.jsonl").read_text().splitlines()]
    [changes] = [row["history"] for row in rows if "history" in row]
    assert {change["category"] for change in changes["changes"]} == {"unchanged"}
    [manifest] = [row["manifest"] for row in rows if "manifest" in row]
    assert manifest["candidates"]["bert-tiny-pruned"]["digest"]
    assert [len(row["trend"]["points"]) for row in rows if "trend" in row] == [2] * 4
    page = (report / "report.html").read_bytes()
    assert make_page_again([str(report)]) == 0
    assert (report / "report.html").read_bytes() == page
    profile.write_text(PROFILE.format(sparsity=0.9))
    broken = gates(*words)
    assert broken.returncode == 1, broken.stdout
    assert "history     WORSE (Holm" in broken.stdout
    assert "4 passed" in broken.stdout
    with History(file) as history:
        assert [run.exit_status for run in history.runs()] == [0, 0, 1]
        assert history.runs()[1].manifest == manifest
    assert command.main(["history", str(file), "accept"]) == 2
    accept = ["history", str(file), "accept", "--force", "--reason", "smaller"]
    assert command.main(accept) == 0
    assert "run 3" in capsys.readouterr().out
    after = gates(*words)
    assert after.returncode == 0, after.stdout
    assert "compared with run 3" in after.stdout
    file.write_bytes(b"cut")
    damaged = gates(*words)
    assert damaged.returncode == 4
    assert "not a database of runs" in damaged.stderr
