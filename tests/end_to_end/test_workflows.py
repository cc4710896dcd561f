"""The workflows for CI are valid, and their commands judge a checkpoint."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import ROOT, compress
from tests.processes import environment, run_module

yaml = pytest.importorskip("ruamel.yaml")
CI = ROOT / "fixtures" / "ci"
SCHEMAS = {
    ROOT / ".github" / "workflows" / "tests.yml": "vendor.github-workflows",
    CI / "github.yml": "vendor.github-workflows",
    CI / "gitlab.yml": "vendor.gitlab-ci",
}
EXPRESSION = re.compile(r"\$\{\{ github.event_name == '(\w+)' && '([^']+)' \|\| '([^']+)' \}\}")


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.name)
def test_a_workflow_follows_the_schema_of_its_service(file, tmp_path):
    words = ["--builtin-schema", SCHEMAS[file], "--data-transform", "gitlab-ci", file]
    done = run_module("check_jsonschema", words, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """The folder of a user, with models and data where the workflows look for them."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(MODELS / "llama-tiny", folder / "models" / "base")
    output = folder / "models" / "compressed"
    done = compress("magnitude-60", "--model", "llama-tiny", "--output", output)
    assert done.returncode == 0, done.stderr
    (folder / "data").mkdir()
    passages = [corpus.passage("held-out", index) for index in range(30)]
    rows = {
        "text": [{"text": passage.text} for passage in passages],
        "questions": [
            {"context": passage.text, "question": question.text, "answers": [question.answer]}
            for passage in passages
            for question in passage.questions[:1]
        ],
        "prompts": [
            {"prompt": corpus.summary_prompt(passage.text), "response": passage.summary}
            for passage in passages
        ],
    }
    for name, lines in rows.items():
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def _bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a script as the runner of GitHub does."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(
        words,
        cwd=folder,
        env={**environment(), "PATH": path, **variables},
        capture_output=True,
        text=True,
    )


def test_the_workflow_of_github_fails_a_broken_checkpoint_and_says_why(repository, tmp_path):
    workflow = yaml.YAML(typ="safe").load(CI / "github.yml")
    steps = workflow["jobs"]["gates"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("name") == "gates"]
    event, on_event, otherwise = EXPRESSION.search(script).groups()
    assert (event, on_event, otherwise) == (
        "pull_request",
        "--smoke",
        "--strict --history .gates/history.db",
    )
    summary = tmp_path / "summary.md"
    done = _bash(
        EXPRESSION.sub(on_event, script), repository,
        **workflow["env"], GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    annotations = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    assert any("confident flips" in line for line in annotations), done.stdout
    lines = summary.read_text().splitlines()
    assert lines[0].startswith("## Gates: do not release")
    assert any(line.startswith("- **") and "confident flips" in line for line in lines)
    assert "<details><summary>Complete report</summary>" in lines
    junit = ElementTree.parse(repository / "gates" / "junit.xml").getroot()
    assert any(
        (prop.get("name"), prop.get("value")) == ("metric", "perplexity_drift")
        for prop in junit.iter("property")
    )


def test_the_pipeline_of_gitlab_fails_a_broken_checkpoint(repository):
    pipeline = yaml.YAML(typ="safe").load(CI / "gitlab.yml")
    _, script = pipeline["gates"]["script"]
    policies = [rule["variables"]["POLICY"] for rule in pipeline["gates"]["rules"]]
    assert policies == ["--smoke", "--strict --history .gates/history.db"]
    done = _bash(script, repository, **pipeline["variables"], POLICY=policies[0])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "::error" not in done.stdout
    assert (repository / pipeline["gates"]["artifacts"]["reports"]["junit"]).exists()
