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

from compression_gates.evals.history.database import History
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


def _steps(job: dict, action: str) -> list[dict]:
    return [step for step in job["steps"] if step.get("uses", "").startswith(f"{action}@")]


def test_red_nights_are_kept_on_github():
    """actions/cache saves only after a success, and a step is skipped after a failed one."""
    workflow = yaml.YAML(typ="safe").load(CI / "github.yml")
    keys = set()
    for name, job in workflow["jobs"].items():
        assert not _steps(job, "actions/cache")
        [restored], [saved] = (
            _steps(job, "actions/cache/restore"),
            _steps(job, "actions/cache/save"),
        )
        [command] = [step for step in job["steps"] if step.get("name") == name]
        steps = job["steps"]
        assert steps.index(restored) < steps.index(command) < steps.index(saved)
        assert saved["with"]["path"] == restored["with"]["path"] == ".gates"
        assert saved["with"]["key"] == restored["with"]["key"]
        assert restored["with"]["key"].startswith(restored["with"]["restore-keys"])
        assert "run_attempt" in restored["with"]["key"]  # a key cannot be saved twice
        keys.add(saved["with"]["key"])
    assert len(keys) == 1  # so that a night finds what was accepted
    assert _steps(workflow["jobs"]["gates"], "actions/cache/save")[0]["if"] == "always()"
    assert workflow["concurrency"]["group"] == "gates-${{ github.ref }}"
    assert "pull_request" in workflow["concurrency"]["cancel-in-progress"]


def test_red_nights_are_kept_on_gitlab():
    pipeline = yaml.YAML(typ="safe").load(CI / "gitlab.yml")
    assert pipeline[".gates"]["cache"]["when"] == "always"
    assert pipeline[".gates"]["resource_group"]
    assert {pipeline[job]["extends"] for job in ("gates", "accept")} == {".gates"}
    policies = {
        rule["if"].split('"')[1]: rule["variables"]["CACHE_POLICY"]
        for job in ("gates", "accept")
        for rule in pipeline[job]["rules"]
    }
    # A merge request that ends later than a night must not replace its history.
    assert policies == {
        "merge_request_event": "pull", "schedule": "pull-push", "web": "pull-push",
    }  # fmt: skip


def _accept_scripts() -> list[str]:
    """The scripts that accept a night, of both services."""
    workflow = yaml.YAML(typ="safe").load(CI / "github.yml")
    accept = workflow["jobs"]["accept"]
    [step] = [step for step in accept["steps"] if step.get("name") == "accept"]
    assert step["env"] == {"ACCEPT": "${{ inputs.accept }}", "REASON": "${{ inputs.reason }}"}
    assert accept["if"] == "${{ inputs.accept }}"
    assert workflow["jobs"]["gates"]["if"] == "${{ !inputs.accept }}"
    pipeline = yaml.YAML(typ="safe").load(CI / "gitlab.yml")
    return [step["run"], pipeline["accept"]["script"][-1]]


def test_a_red_night_is_stored_and_can_be_accepted_with_a_reason(repository):
    pipeline = yaml.YAML(typ="safe").load(CI / "gitlab.yml")
    policy = pipeline["gates"]["rules"][1]["variables"]["POLICY"]
    night = _bash(
        pipeline["gates"]["script"][-1], repository, **pipeline["variables"], POLICY=policy
    )
    assert night.returncode == 1, night.stdout + night.stderr
    assert "history     stored as run 1 in .gates/history.db" in night.stdout
    for script in _accept_scripts():
        refused = _bash(script, repository, ACCEPT="latest", REASON="")
        assert refused.returncode == 2
        assert "run 1 is red" in refused.stderr
        for number in ("latest", "1"):
            done = _bash(script, repository, ACCEPT=number, REASON="the limits change; see $(x)")
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("run 1 ")
            assert "is now the reference of profile checkpoints" in done.stdout
    with History(repository / ".gates" / "history.db", create=False) as history:
        [run] = history.runs()
        assert run.acceptance.reason == "the limits change; see $(x)"
