"""Runs the real command line in a process of its own."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import run_module

ROOT = Path(__file__).parents[2]

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
TWO_RECIPES = """
[data.reviews]
source = "reviews"
count = 40

[[suite]]
kind = "classifier"
baselines = ["bert-tiny"]
recipes = ["rtn-int8", "magnitude-90"]
labels = "reviews"
"""
"""The data and the models of a small profile, to which gates are added."""


@pytest.fixture
def profile(tmp_path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(scope="session")
def measured(tmp_path_factory) -> Path:
    """A store that tests share, so that what several of them judge is measured once."""
    return tmp_path_factory.mktemp("measured")


@pytest.fixture
def gates(measured):
    """``gates(*arguments)`` runs ``pytest tests/gates``, by default with the shared store."""

    def run(*arguments: object, store: Path = measured, **options) -> subprocess.CompletedProcess:
        return run_gates(*arguments, store=store, **options)

    return run


def run_gates(
    *arguments: object, store: Path, run: Callable = run_module
) -> subprocess.CompletedProcess:
    """Run ``pytest tests/gates`` in a forked process, or in a fresh one by ``run=run_fresh``."""
    return run("pytest", words_of(*arguments, store=store), ROOT)


def words_of(*arguments: object, store: Path) -> list[str]:
    """The words behind ``pytest`` that judge with a store."""
    return ["tests/gates", "-p", "no:cacheprovider", "--store", str(store), *map(str, arguments)]


def compress(*words: object) -> subprocess.CompletedProcess:
    """Run ``compression-gates compress`` in a forked process."""
    return run_module("compression_gates", ["compress", *words], ROOT)
