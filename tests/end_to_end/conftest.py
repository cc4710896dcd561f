"""Runs the real command line in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPRESS = (sys.executable, "-m", "compression_gates", "compress")

PROFILE = """
[data.reviews]
source = "reviews"
count = 200

[data.calibration]
source = "reviews"
split = "calibration"
count = 32

[[suite]]
kind = "classifier"
baselines = ["bert-tiny", "roberta-tiny"]
recipes = ["rtn-int8", "magnitude-30", "magnitude-90", "wanda-30"]
labels = "reviews"
calibration = { data = "calibration" }
controls = true

[suite.gates]
js_divergence = 0.05
accuracy_drop = 0.1
flips = 0.15
compression_ratio = 0.99

[[suite.known_failures]]
candidates = ["bert-tiny-magnitude-90", "roberta-tiny-magnitude-90"]
gates = ["js_divergence", "accuracy_drop", "flips"]
reason = "nine weights in ten are gone"
"""


@pytest.fixture
def profile(tmp_path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def gates(tmp_path):
    """``gates(*arguments)`` runs ``pytest tests/gates`` with a store of its own."""

    def run(*arguments: object, store: str = "store") -> subprocess.CompletedProcess:
        return run_gates(*arguments, store=tmp_path / store)

    return run


def run_gates(*arguments: object, store: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments, store=store), cwd=ROOT, capture_output=True, text=True
    )


def command(*arguments: object, store: Path) -> list[str]:
    words = [sys.executable, "-m", "pytest", "tests/gates", "-p", "no:cacheprovider"]
    return [*words, "--store", str(store), *map(str, arguments)]
