"""A metric that a user adds from a folder of their own: one module for it, and one for its gate."""

import json
import subprocess
import sys
import tomllib

import pytest

METRIC = '''
"""The document whose loss rises most."""

import numpy as np

from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.reading import Reading, check_paired
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import NATS
from compression_gates.evals.statistics.estimate import exact


def worst_document_rise(baseline, candidate):
    """Largest rise of a document's mean loss per token."""
    check_paired(baseline, candidate)
    documents = baseline["cluster"]
    sizes = np.bincount(documents)
    before, after = (np.bincount(documents, side["nll"]) / sizes for side in (baseline, candidate))
    rise = float(max((after - before).max(), 0.0))
    return Reading(exact(rise, len(sizes)), 0.0, rise)


register(
    Metric(
        name="worst_document_rise",
        title="worst rise",
        promise="no document's loss rises by more than {limit}",
        unit=NATS,
        function=worst_document_rise,
        scored="text",
        needs={"causal": ("text",)},
    )
)
'''
GATE = '''
def test_worst_document_rise(pair, gate):
    """The loss of no document rises by more than the limit."""
    gate.holds(gate.read(pair))
'''
PROFILE = """
[data.passages]
source = "passages"
count = 20

[[suite]]
kind = "causal"
baselines = ["llama-tiny"]
recipes = ["rtn-int8", "magnitude-90"]
text = "passages"
controls = true

[suite.gates]
js_divergence = 0.05
kl_from_baseline = 0.2
worst_document_rise = 0.5
"""


@pytest.fixture
def folder(tmp_path):
    for name, text in (("conftest.py", METRIC), ("test_gates.py", GATE), ("mine.toml", PROFILE)):
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder, *words):
    command = [sys.executable, "-m", "compression_gates", "--profile", "mine.toml", "--store",
               "store", "-p", "no:cacheprovider", *words, "--", "test_gates.py"]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_it_is_judged_reported_planned_and_proposed_as_any_other(folder):
    done = run(folder, "--report", "report", "--propose-limits", "proposed.toml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "worst rise" in done.stdout
    assert "controls    8 of 8 hold" in done.stdout
    rows = map(json.loads, (folder / "report" / "report.jsonl").read_text().splitlines())
    verdicts = {
        (row["row"], row["verdict"]["metric"]): row["verdict"]["outcome"]
        for row in rows
        if "verdict" in row
    }
    own = {key[0]: outcome for key, outcome in verdicts.items() if key[1] == "worst_document_rise"}
    assert own == {"rtn-int8": "passed", "magnitude-90": "failed"}
    assert ("rtn-int8", "kl_from_baseline") in verdicts
    (suite,) = tomllib.loads((folder / "proposed.toml").read_text())["suite"]
    assert 0 < suite["gates_for"]["rtn-int8"]["worst_document_rise"] < 0.5
    planned = run(folder, "--plan")
    assert planned.returncode == 0, planned.stdout
    assert "worst rise" in planned.stdout


def test_a_profile_that_names_no_metric_is_told_which_was_meant(folder):
    text = (folder / "mine.toml").read_text()
    (folder / "mine.toml").write_text(text.replace("worst_document_rise", "worst_documents_rise"))
    done = run(folder)
    assert done.returncode == 4
    assert "did you mean 'worst_document_rise'?" in done.stderr
