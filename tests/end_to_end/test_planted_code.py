"""No file beside what is judged, or beside what it is judged with, runs code or changes a verdict.

Every folder that an option names, its parent and a ``tests`` folder in it hold a ``conftest.py``
that leaves a mark and has every gate hold, and the settings files of pytest, which load it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import ROOT
from tests.processes import run_module

EVIL = """
from pathlib import Path
Path({marks!r}, str(abs(hash(__file__)))).write_text(__file__)
from compression_gates.evals.gates.gate import Verdict
Verdict.holds = lambda self, policy: True
"""
SETTINGS = {
    "pytest.ini": "[pytest]\naddopts = -p evil\npythonpath = .\n",
    "pytest.toml": "[pytest]\naddopts = ['-p', 'evil']\npythonpath = ['.']\n",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '-p evil'\npythonpath = '.'\n",
    "tox.ini": "[pytest]\naddopts = -p evil\npythonpath = .\n",
    "setup.cfg": "[tool:pytest]\naddopts = -p evil\npythonpath = .\n",
}


def plant(folder, marks):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("conftest.py", "evil.py", "test_evil.py", "setup.py"):
        (folder / name).write_text(EVIL.format(marks=str(marks)))
    for name, text in SETTINGS.items():
        (folder / name).write_text(text)


@pytest.fixture
def place(tmp_path):
    """Options of a run whose candidate is destroyed, each value in a planted folder of its own."""
    marks = tmp_path / "marks"
    marks.mkdir()
    folders = {}
    for name in ("baseline", "candidate", "text", "labelled", "profile", "since", "report",
                 "store", "calibration"):  # fmt: skip
        folders[name] = tmp_path / f"of-{name}" / name
        for folder in (folders[name].parent, folders[name], folders[name] / "tests"):
            plant(folder, marks)
    for side in ("baseline", "candidate"):
        shutil.copytree(MODELS / "bert-tiny", folders[side], dirs_exist_ok=True)
    file = folders["candidate"] / "model.safetensors"
    tensors = load_file(file)
    torch.manual_seed(0)
    save_file({n: torch.randn_like(t) for n, t in tensors.items()}, file, {"format": "pt"})
    (folders["text"] / "text.txt").write_text("a good story\n")
    rows = [{"text": f"a good story {i}", "label": i % 2} for i in range(40)]
    rows = "".join(json.dumps(row) + "\n" for row in rows)
    (folders["labelled"] / "rows.jsonl").write_text(rows)
    shutil.copyfile(ROOT / "fixtures" / "profiles" / "checkpoints.toml",
                    folders["profile"] / "checkpoints.toml")  # fmt: skip
    found = {name: str(folder) for name, folder in folders.items()}
    found["labelled"] += "/rows.jsonl"
    found["profile"] += "/checkpoints.toml"
    del found["text"], found["calibration"]
    return marks, found


CHOSEN = ("-p", "no:cacheprovider", "-k", "js_divergence", "--attribute", "none")


def judged(module, words, cwd, marks, code=1):
    done = run_module(module, [*words, *CHOSEN], cwd)
    told = done.stdout + done.stderr
    assert [mark.read_text() for mark in marks.iterdir()] == []
    assert done.returncode == code, told
    assert ("1 failed" if code else "1 passed") in done.stdout, told


def spaced(options):
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def joined(options):
    return [f"--{name}={value}" for name, value in options.items()]


def repeated(options):
    """Both a list of values and the option twice."""
    more = [options["candidate"], "--candidate", options["candidate"] + "/../candidate"]
    return [*spaced({k: v for k, v in options.items() if k != "candidate"}), "--candidate", *more]


@pytest.mark.parametrize("written", [spaced, joined], ids=["spaced", "joined"])
def test_planted_code_does_not_run_from_the_suite(place, written):
    marks, options = place
    judged("pytest", ["tests/gates", *written(options)], ROOT, marks)


def test_planted_code_does_not_run_in_a_worker(place):
    marks, options = place
    judged("pytest", ["tests/gates", *spaced(options), "-n", "1"], ROOT, marks)


def test_planted_code_does_not_run_from_another_folder(place, tmp_path):
    marks, options = place
    judged("pytest", [ROOT / "tests" / "gates", *spaced(options)], tmp_path, marks)


MODULES = (
    "fixtures", "compression", "evals", "tests", "pytest", "_pytest", "xdist", "execnet", "torch",
    "transformers", "numpy", "sitecustomize", "usercustomize", "queue", "struct", "json",
)  # fmt: skip
COMMANDS = {
    "compression-gates": [str(Path(sys.executable).with_name("compression-gates"))],
    "python -m compression_gates": [sys.executable, "-m", "compression_gates"],
    "pytest": [sys.executable, "-P", "-m", "pytest", str(ROOT / "tests" / "gates")],
}
"""The last as its own command does, which puts no folder first."""


@pytest.mark.parametrize(
    ("command", "workers"),
    [
        # The next one starts the same script, and -m without workers, where a folder comes first.
        pytest.param("compression-gates", [], marks=pytest.mark.full),
        ("compression-gates", ["-n", "1"]),
        ("python -m compression_gates", []),
        ("pytest", []),
        # The others start pytest so, and a worker; test_planted_code_does_not_run_in_a_worker both.
        pytest.param("pytest", ["-n", "1"], marks=pytest.mark.full),
    ],
)
def test_no_module_of_the_working_folder_is_imported(place, command, workers):
    """Also where they are named like what the suite, pytest and its workers import."""
    marks, options = place
    folder = Path(options["candidate"])
    for name in MODULES:
        (folder / f"{name}.py").write_text(EVIL.format(marks=str(marks)))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [*COMMANDS[command], *spaced(options), *workers, *CHOSEN],
        cwd=folder, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert [mark.read_text() for mark in marks.iterdir()] == []
    assert done.returncode == 1, told
    assert "1 failed" in done.stdout, told


def test_a_text_and_calibration_beside_planted_code(place, tmp_path):
    """Options of one file, and of a recipe."""
    marks, options = place
    text = tmp_path / "of-text" / "text" / "text.txt"
    text.write_text("a good story\n" * 30)
    seen = tmp_path / "of-calibration" / "calibration" / "seen.txt"
    seen.write_text("a dull story\n" * 30)
    words = spaced({k: options[k] for k in ("baseline", "store")})
    words += ["--text", text, "--recipes", "wanda-30", "--calibration", seen]
    judged("pytest", ["tests/gates", *words], ROOT, marks, code=0)


def test_several_values_of_an_option(place):
    marks, options = place
    words = ["tests/gates", *repeated(options), "--collect-only", "-q"]
    done = run_module("pytest", words, ROOT)
    assert not list(marks.iterdir()), done.stdout
    assert done.returncode == 0, done.stdout + done.stderr


def test_logs_beside_planted_code(place, tmp_path):
    marks, _ = place
    log = tmp_path / "of-text" / "text" / "results_2025-01-01.json"
    log.write_text("{}")
    for module, words in (("pytest", ["tests/gates"]), ("compression_gates", [])):
        done = run_module(module, [*words, "--baseline", log, "--candidate", log], ROOT)
        assert not list(marks.iterdir())
        assert done.returncode == 4
        assert "is it a results file of lm-eval?" in done.stderr


def test_other_settings_than_the_suites_are_refused(tmp_path):
    """Without the plugin the values would be taken for folders of tests."""
    (tmp_path / "other.ini").write_text("[pytest]\n")
    words = ["-c", tmp_path / "other.ini", ROOT / "tests" / "gates", "--candidate", tmp_path]
    done = run_module("pytest", words, ROOT)
    assert done.returncode == 4
    assert "it takes the values of options for test folders" in done.stderr
