"""A metric that a user adds from a folder of their own: one module for it, and one for its gate."""

import json
import re
import tomllib

import pytest

from tests.end_to_end.conftest import ROOT
from tests.processes import run_module

README = (ROOT / "evals" / "README.md").read_text(encoding="utf-8")
METRIC, GATE, *_ = re.findall(
    r"```python\n(.*?)```", README.partition("### A metric of your own")[2], re.DOTALL
)
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
def folder(tmp_path, measured):
    for name, text in (("conftest.py", METRIC), ("test_gates.py", GATE), ("mine.toml", PROFILE)):
        (tmp_path / name).write_text(text)
    (tmp_path / "store").symlink_to(measured)
    return tmp_path


def run(folder, *words):
    words = ["--profile", "mine.toml", "--store", "store", "-p", "no:cacheprovider", *words]
    return run_module("compression_gates", [*words, "--", "test_gates.py"], folder)


def test_it_is_judged_reported_planned_and_proposed_as_any_other(folder):
    done = run(folder, "--report", "report", "--propose-limits", "proposed.toml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "worst rise" in done.stdout
    assert "\nFAILED test_gates.py::test_worst_document_rise[" in done.stdout
    assert "rerun      compression-gates --profile mine.toml" in done.stdout
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


def test_a_test_of_the_user_may_be_an_expected_failure(folder):
    (folder / "test_mine.py").write_text(
        "import pytest\n\n@pytest.mark.xfail(strict=True, reason='mine')\ndef test_mine(): pass\n"
    )
    done = run(folder, "-k", "test_mine", "--", "test_mine.py")
    assert done.returncode == 1
    assert "[XPASS(strict)] mine" in done.stdout
    assert "INTERNALERROR" not in done.stdout


def test_a_case_that_judges_nothing_fails(folder):
    (folder / "test_mine.py").write_text("def test_kl_from_baseline(gate, pair): pass\n")
    done = run(folder, "-k", "test_mine and rtn-int8", "--", "test_mine.py")
    assert done.returncode == 1
    assert "nothing was judged; call gate.holds(gate.read(pair))" in done.stdout
    (folder / "test_mine.py").write_text("def test_kl_from_baseline(gate): pass\n")
    done = run(folder, "-k", "test_mine", "--", "test_mine.py")
    assert "takes only one of the fixtures pair and gate; take both" in done.stdout
