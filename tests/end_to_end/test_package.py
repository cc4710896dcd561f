"""The built wheel in an environment of its own, used from a folder that holds nothing else.

The environment sees the packages of this one and, in place of PyPI's packages ``fixtures`` and
``evals``, two that may not be imported.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import ROOT

BASE = MODELS / "bert-tiny"
NOT_OURS = 'raise ImportError("another distribution of this name")\n'


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A virtual environment with the wheel."""
    root = tmp_path_factory.mktemp("package")
    source = root / "source"
    for name in ("compression", "evals", "fixtures", "tests/gates"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", root, source],
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    [wheel] = root.glob("*.whl")
    place = root / "environment"
    venv.create(place, with_pip=False)
    packages = next(place.glob("lib/python*/site-packages"))
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "-q",
         "--no-deps", "--no-index", wheel],
        capture_output=True, text=True,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    # Behind the wheel: the packages that it needs, without the editable install beside them, since
    # files of a folder that is named here are not read for further folders.
    needed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "needed.pth").write_text("\n".join(needed) + "\n")
    for name in ("fixtures", "evals"):
        (packages / f"{name}.py").write_text(NOT_OURS)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with labelled texts alone."""
    folder = tmp_path_factory.mktemp("empty")
    rows = [corpus.review("test", index) for index in range(120)]
    lines = [json.dumps({"text": row.text, "label": row.label}) for row in rows]
    (folder / "labelled.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def run(environment, folder):
    """``run(program, *words)``: in that folder, by the environment's Python."""

    def call(program: str, *words: object, files: dict[str, str] | None = None):
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
        first = [environment / "bin" / "python"]
        first += ["-m", program] if program == "pytest" else []
        first = [environment / "bin" / program] if program == "compression-gates" else first
        done = subprocess.run(
            list(map(str, [*first, *words])), cwd=folder, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        for name in files or {}:
            (folder / name).unlink()
        return done

    return call


GIVEN = ("--baseline", BASE, "--labelled", "labelled.jsonl", "--recipes", "rtn-int8")
PROFILE = """
[data.texts]
path = "labelled.jsonl"
columns = {{ text = "text", label = "label" }}

[[suite]]
kind = "classifier"
baselines = ["bert-tiny"]
recipes = [{recipes}]
labels = "texts"
gates = {{ {gates} }}
"""
CASES = ("-m", "quality", "-q")


def test_the_command_judges_and_names_a_command_that_works(run):
    done = run("compression-gates", *GIVEN, "magnitude-95", "--", *CASES)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "✗" in done.stdout
    [again] = {line.split("rerun")[1].strip() for line in done.stdout.splitlines()
               if "test_accuracy_drop" in line and "rerun" in line}  # fmt: skip
    assert again.startswith("compression-gates 'tests/gates/test_accuracy_drop.py::")


def test_compressing(run, folder):
    made = run("compression-gates", "compress", "rtn-int8", "--model", BASE, "--output", "int8")
    assert made.returncode == 0, made.stderr
    assert (folder / "int8" / "model.safetensors").is_file()


def test_pytest_with_the_plugin_finds_the_gates_of_the_package(run):
    done = run("pytest", "-p", "compression_gates.plugin", "--pyargs",
               "compression_gates.tests.gates", *GIVEN, *CASES)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "policy      default" in done.stdout


def test_other_runs_of_pytest_do_not_load_the_plugin(run):
    test = {
        "test_other.py": "def test_other(request):\n"
        "    assert not request.config.pluginmanager.hasplugin('compression_gates.plugin')\n"
    }
    assert run("pytest", "test_other.py", "-q", files=test).returncode == 0
    assert run("pytest", "test_other.py", "--baseline", "x", files=test).returncode == 4


CASE = """
def test_flips(pair, gate):
    gate.holds(gate.read(pair))
"""
PLUGIN = 'pytest_plugins = ["compression_gates.plugin"]\n'


def test_a_case_in_a_test_of_ones_own_that_loads_the_plugin(run):
    """Options are read before the plugin is there, so that the default profile is judged."""
    done = run("pytest", "test_mine.py", "-k", "bert-tiny-rtn-int8 and not albert", "-q",
               files={"test_mine.py": PLUGIN + CASE})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "rtn-int8" in done.stdout


METHOD = """
from compression_gates import register_method


def shrink(model):
    \"\"\"Scales every output by a half.\"\"\"
    for name, parameter in model.named_parameters():
        if name.endswith("output.dense.weight"):
            parameter.data.mul_(0.5)


register_method("shrink", shrink)
"""


def verdicts_of(report: Path) -> dict[str, dict[str, bool]]:
    """Whether each gate of a report's candidates passed, by candidate and metric."""
    rows = map(json.loads, (report / "report.jsonl").read_text().splitlines())
    found: dict[str, dict[str, bool]] = {}
    for row in rows:
        if "verdict" in row:
            found.setdefault(row["row"], {})[row["verdict"]["metric"]] = row["passed"]
    return found


def test_a_method_and_a_case_of_ones_own_are_judged_by_a_worker_like_any_other(run, folder):
    given = (*GIVEN, "shrink+rtn-int8", "--report", "own_method")
    done = run("pytest", "test_mine.py", "--pyargs", "compression_gates.tests.gates", *given,
               "-k", "flips or js_divergence", "-n", "1", "-v",
               files={"conftest.py": PLUGIN + METHOD, "test_mine.py": CASE})  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    [own] = [line for line in done.stdout.splitlines()
             if "[gw0]" in line and "::test_flips[bert-tiny-rtn-int8]" in line]  # fmt: skip
    assert "PASSED" in own
    assert "test_flips.py" not in own  # which is in place of the shipped one
    page = (folder / "own_method" / "report.html").read_text(encoding="utf-8")
    assert "shrink+rtn-int8" in page
    found = verdicts_of(folder / "own_method")
    assert all(found["rtn-int8"].values())
    assert not found["shrink+rtn-int8"]["js_divergence"]


OTHERS = """
from compression_gates import Metric
from compression_gates.evals.metrics.metric import EVERY_MODEL
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.metrics.units import PLAIN
from compression_gates.evals.statistics.estimate import exact


def weights_share(pair, weights=()):
    share = pair.candidate.weight_bytes / pair.baseline.weight_bytes
    return MetricResult(exact(share), 1.0, share)


METRIC = Metric(
    "weights_share", "share", "the weights take at most {limit}", PLAIN, weights_share,
    needs=EVERY_MODEL,
)


def untouched(model):
    \"\"\"Leaves the model as it is.\"\"\"
"""
ENTRY_POINTS = """
[compression_gates.metrics]
weights_share = others_of_gates:METRIC

[compression_gates.methods]
untouched = others_of_gates:untouched
"""
SHARES = PROFILE.format(
    recipes='"untouched", "untouched+rtn-int8", "magnitude-30"', gates="weights_share = 0.5"
)


@pytest.fixture
def others(environment):
    """``others(source)``: installs a distribution with a metric and a method, until the end of the
    test."""
    packages = next(environment.glob("lib/python*/site-packages"))
    module, described = packages / "others_of_gates.py", packages / "others-1.0.dist-info"

    def install(source: str) -> None:
        module.write_text(source)
        described.mkdir()
        (described / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
        (described / "entry_points.txt").write_text(ENTRY_POINTS)

    yield install
    module.unlink()
    shutil.rmtree(described)


def test_a_distribution_adds_a_metric_and_a_method_to_a_profile_of_ones_own(run, folder, others):
    others(OTHERS)
    listed = run("compression-gates", "methods").stdout
    assert "untouched" in listed
    assert "gptq" in listed
    done = run("compression-gates", "--profile", "shares.toml", "--report", "others", "--", "-q",
               "-k", "untouched", files={"shares.toml": SHARES})  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = verdicts_of(folder / "others")
    assert found.keys() == {"untouched", "untouched+rtn-int8"}
    assert not found["untouched"]["weights_share"]
    assert found["untouched+rtn-int8"]["weights_share"]


def test_a_distribution_that_is_broken_is_named(run, others):
    others("raise ValueError('not today')")
    done = run("compression-gates", "--profile", "shares.toml", files={"shares.toml": SHARES})
    told = done.stdout + done.stderr
    assert done.returncode == 4, told
    assert "entry point weights_share = others_of_gates:METRIC of others: ValueError: not t" in told
    assert "TOML" not in told
    assert "Traceback" not in told
    made = run("compression-gates", "compress", "untouched", "--model", BASE, "--output", "none")
    assert made.returncode == 2
    assert "entry point untouched = others_of_gates:untouched of others: not today" in made.stderr


MEMORY = """
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from compression_gates import compress, judge

base = {base!r}
model = AutoModelForSequenceClassification.from_pretrained(base)
tokenizer = AutoTokenizer.from_pretrained(base)
before = model.bert.encoder.layer[0].output.dense.weight.clone()
made = compress(model, "shrink+wanda-50", ["A fine film.", "A dull film."] * 8, tokenizer)
print(made.save("made"))
assert (model.bert.encoder.layer[0].output.dense.weight == before).all()

with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "output.dense.weight" in name:
            parameter.zero_()
broken = [(model, tokenizer), compress(base, "magnitude-95")]
found = judge(base, broken, labelled="labelled.jsonl")
assert not found.passed
failing = {{entry.row for entry in found.entries if not entry.passed}}
assert len(failing) == 2 and failing == {{entry.row for entry in found.entries}}, failing
print(found)

found = judge(base, compress("bert-tiny", "rtn-int8"), labelled="labelled.jsonl")
[size] = [verdict.value for verdict in found if verdict.metric == "compression_ratio"]
assert size > 2.5, size
assert found, found
"""


def test_models_in_memory_are_compressed_and_judged_from_python(run, folder):
    """One process: compresses a model, judges two that are broken, and one that is not."""
    done = run("python", "-c", METHOD + MEMORY.format(base=str(BASE)))
    assert done.returncode == 0, done.stderr
    format_of_made, _, judged = done.stdout.partition("\n")
    assert format_of_made == "plain"
    assert (folder / "made" / "model.safetensors").is_file()
    assert "✗" in judged
    assert "candidate" in judged
