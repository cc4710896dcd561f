"""The suite as its users run it."""

import json
import subprocess
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.conftest import PROFILE, ROOT, run_gates, words_of
from tests.processes import run_fresh, run_module, start_module


def verdicts(report) -> dict:
    rows = [json.loads(line) for line in (report / "report.jsonl").read_text().splitlines()]
    return {
        (row["verdict"]["candidate"], row["verdict"]["metric"]): (
            row["passed"],
            row["verdict"]["outcome"],
            pytest.approx(row["verdict"]["value"], abs=1e-6),
        )
        for row in rows
        if "verdict" in row
    }


@dataclass(frozen=True)
class Run:
    """A finished run, and the folder with its profile, its store, its report and its JUnit file."""

    done: subprocess.CompletedProcess
    folder: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """A run of a whole profile with a store of its own, in a fresh interpreter."""
    folder = tmp_path_factory.mktemp("whole")
    profile = folder / "profile.toml"
    profile.write_text(PROFILE.replace('"magnitude-30", ', ""))
    words = ("--profile", profile, "--report", folder / "report", "--junitxml", folder / "j.xml")
    return Run(run_gates(*words, store=folder / "store", run=run_fresh), folder)


def measurements(store: Path) -> list[Path]:
    return sorted((store / "measurements").glob("*.npz"))


def test_a_whole_run_its_report_and_its_numbers(whole, gates, tmp_path):
    done, report = whole.done, whole.folder / "report"
    assert done.returncode == 0, done.stdout
    assert "bert-tiny" in done.stdout
    assert "(✗)" in done.stdout
    assert "controls    20 of 20 hold" in done.stdout
    assert str(whole.folder / "store") in done.stdout
    assert len(verdicts(report)) == 2 * 3 * 5
    assert "nine weights in ten are gone" in (report / "report.md").read_text()
    case = next(
        case
        for case in ET.parse(whole.folder / "j.xml").iter("testcase")
        if case.get("name") == "test_accuracy_drop[bert-tiny-rtn-int8]"
    )
    numbers = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert float(numbers["limit"]) == 0.1
    assert float(numbers["low"]) <= float(numbers["value"]) <= float(numbers["high"])
    assert numbers["n"] == "200"

    before = measurements(whole.folder / "store")
    words = ("--profile", whole.folder / "profile.toml", "--report", tmp_path / "warm")
    warm = gates(*words, store=whole.folder / "store")
    assert verdicts(tmp_path / "warm") == verdicts(report)
    assert warm.returncode == 0
    assert measurements(whole.folder / "store") == before


def test_two_workers_finish_a_killed_run_with_the_same_verdicts_and_measure_nothing_twice(
    whole, gates, tmp_path
):
    words, store = ("--profile", whole.folder / "profile.toml"), tmp_path / "store"
    running = start_module("pytest", words_of(*words, store=store), ROOT)
    deadline = time.monotonic() + 120
    while len(measurements(store)) < 5:
        assert running.is_alive(), "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.kill()
    running.join()
    finished = {path: path.stat().st_mtime_ns for path in measurements(store)}
    again = gates(*words, "--report", tmp_path / "again", "-n", "2", store=store)
    assert again.returncode == 0, again.stdout
    assert "controls    20 of 20 hold" in again.stdout
    assert verdicts(tmp_path / "again") == verdicts(whole.folder / "report")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(finished) < len(measurements(store)) == len(measurements(whole.folder / "store"))
    assert not list(store.rglob("*.partial"))


def test_a_failing_case_shows_the_evidence(gates, profile, tmp_path):
    profile.write_text(PROFILE.split("[[suite.known_failures]]")[0])
    done = gates("--profile", profile, "-k", "accuracy_drop and bert-tiny-magnitude-90")
    assert done.returncode == 1
    for part in (
        "accuracy -23.50 pt (limit -10.00 pt)\n",
        "promised   accuracy falls by at most 10.00 pt",
        "95% interval",
        "(n = 200)",
        "worst 1",
        "expected 1, baseline 1, candidate 0",
        "where      bert.encoder.layer.",
        "not explained by single modules",
        "rerun      compression-gates 'tests/gates/test_accuracy_drop.py::",
    ):
        assert (
            part in done.stdout
            or part.replace("1, baseline 1, candidate 0", "0, baseline 0, candidate 1")
            in done.stdout
        )
    assert "Traceback" not in done.stdout


def test_modules_are_named_only_of_failing_cases_or_on_request(gates, profile, tmp_path):
    def attributed(name, *options):
        chosen = "accuracy_drop and bert-tiny and (rtn or 90)"
        words = ("--profile", profile, "-k", chosen, "--report")
        done = gates(*words, tmp_path / name, *options)
        assert done.returncode == 0
        rows = map(json.loads, (tmp_path / name / "report.jsonl").read_text().splitlines())
        found = {row["row"]: row["attribution"] for row in rows if "attribution" in row}
        assert found.keys() == {"rtn-int8", "magnitude-90"}
        return done.stdout, {row: where for row, where in found.items() if where}

    text, found = attributed("usual")
    assert not found
    assert "where " not in text
    text, found = attributed("all", "--attribute", "all")
    assert len(found) == 2
    for row, where in found.items():
        assert 900 < where["tokens"] <= 1024
        assert 2 < where["passes"] <= 3 * (3 + 2 * 9)
        explained = sum(module["share"] for module in where["modules"])
        assert explained + where["unexplained"] == pytest.approx(1)
        is_known = row == "magnitude-90"
        assert (f"where       bert-tiny-{row}, reviews: " in text) != is_known


def test_a_known_failure_that_passes_turns_red(gates, profile):
    profile.write_text(PROFILE.replace('"bert-tiny-magnitude-90"', '"bert-tiny-rtn-int8"'))
    done = gates("--profile", profile, "-k", "bert-tiny-rtn-int8 and accuracy")
    assert done.returncode == 1
    assert "passes, but is listed in known_failures" in done.stdout


def test_an_error_is_never_taken_for_a_known_failure(gates, profile):
    text = PROFILE.replace(
        '"magnitude-90"', '{ method = "magnitude", pattern = "3:7", name = "bad" }'
    )
    profile.write_text(text.replace("magnitude-90", "bad"))
    done = gates("--profile", profile, "-k", "bert-tiny-bad and accuracy")
    assert done.returncode == 1
    assert "an input width of 96 is not a multiple of 7" in done.stdout


def test_choosing_by_name_and_marker(gates, profile):
    done = gates("--profile", profile, "--collect-only", "-q", "-k", "roberta and wanda")
    assert done.stdout.count("[roberta-tiny-wanda-30]") == 5
    done = gates("--profile", profile, "--collect-only", "-q", "-m", "efficiency")
    assert {line.split("::")[0] for line in done.stdout.splitlines() if "::" in line} == {
        "tests/gates/test_compression_ratio.py"
    }


@pytest.fixture
def checkpoints(tmp_path):
    """Candidates made by compression's own front door: a healthy one and a ruined one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from compression_gates.compression.apply import compress
    from compression_gates.compression.checkpoint.saving import save
    from compression_gates.compression.recipe import Recipe
    from compression_gates.fixtures.world.shipped import MODELS

    for name, recipe in (("healthy", "rtn-int8"), ("ruined", "magnitude-90")):
        model = AutoModelForCausalLM.from_pretrained(MODELS / "llama-tiny", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(MODELS / "llama-tiny")
        save(compress(model.eval(), Recipe.parse(recipe)), tokenizer, tmp_path / name)
    return tmp_path


def test_two_checkpoints_on_a_text_of_ones_own(gates, checkpoints):
    from compression_gates.fixtures.world import corpus

    text = checkpoints / "mine.txt"
    text.write_text("\n\n".join(corpus.passage("calibration", i).text for i in range(40)))
    common = ("--baseline", "fixtures/models/llama-tiny", "--text", text)
    done = gates(*common, "--candidate", checkpoints / "healthy", checkpoints / "ruined")
    assert done.returncode == 1
    (decision,) = (line for line in done.stdout.splitlines() if line.startswith("decision "))
    assert "do not release: 1 of 2 candidates fails: ruined (" in decision
    assert "run on      int8 weights: aten::mm" in done.stdout


def test_models_of_other_vocabularies_fail_alone(gates, tmp_path):
    """One that cannot be held against the baseline takes no other candidate down."""
    text = tmp_path / "reviews.txt"
    text.write_text("The soup was good.\nThe bread was never very dull.\n")
    done = gates(
        "--baseline", "roberta-tiny", "--candidate", "bert-tiny", "fixtures/models/roberta-tiny",
        "--text", text, "-m", "efficiency",
    )  # fmt: skip
    assert done.returncode == 1
    assert "bert-tiny: the bos token is '<s>' (0) for the baseline and none" in done.stdout
    assert "Traceback" not in done.stdout
    assert "2 passed" in done.stdout
    assert "1 error, 1 repeated errors" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--profile", "defualt"], "did you mean 'default'"),
        (["--candidate", "x"], "--candidate needs --baseline"),
        (["--text", "x"], "--text needs --baseline"),
        (["--baseline", "./nowhere"], "no such directory"),
        (["--baseline", "bert-tiny", "--candidate", "roberta-tiny"], "give --text FILE"),
        (["--baseline", ""], "--baseline is empty"),
        (["--store", ""], "--store is empty"),
        (
            ["--profile", "default", "--baseline", "bert-tiny", "--text", "README.md"],
            "leave out --text",
        ),
        (["--device", "tpu"], "device tpu: not cpu, cuda, cuda:N or auto"),
        (["--report", "/proc/nowhere"], "report folder /proc/nowhere"),
        (["--store", "/proc/nowhere"], "store /proc/nowhere"),
        (
            ["--baseline", "bert-tiny", "--candidate", "roberta-tiny", "--text", "nowhere.txt"],
            "--text nowhere.txt: No such file or directory",
        ),
    ],
)
def test_wrong_use_is_one_clear_line(gates, arguments, complaint):
    done = gates(*arguments)
    assert done.returncode == 4, done.stdout
    assert complaint in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("more", [(), ("--strict",), ("--", "-m", "efficiency")])
def test_the_command_collects_the_gates_from_any_folder(tmp_path, more):
    run = run_module if more else run_fresh
    done = run("compression_gates", ["--collect-only", "-q", *more], tmp_path)
    assert done.returncode == 0, done.stdout
    assert "test_speedup[llama-tiny-rtn-int8]" in done.stdout


def test_no_gpu_is_said_at_once(gates):
    import torch

    if torch.cuda.is_available():
        done = gates("--device", "cuda:99", "--collect-only")
        assert "counted from 0" in done.stderr
    else:
        done = gates("--device", "cuda")
        assert "sees no CUDA device" in done.stderr
    assert done.returncode == 4
