"""How long the commands of the README take, as whole processes.

pytest tests/benchmarks
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def gates(*arguments: str) -> None:
    words = [sys.executable, "-m", "pytest", "tests/gates", "-q", *arguments]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("store"))


def test_default_profile_cold(benchmark, store):
    """At most 150 s on two cores."""
    benchmark.pedantic(gates, ("--store", store), rounds=1)
    assert benchmark.stats["max"] <= 150


def test_default_profile_warm(benchmark, store):
    """At most 15 s once the store holds everything."""
    benchmark.pedantic(gates, ("--store", store), rounds=3, warmup_rounds=1)
    assert benchmark.stats["median"] <= 15


def test_collection(benchmark):
    """At most 2.5 s."""
    benchmark.pedantic(gates, ("--collect-only",), rounds=5, warmup_rounds=1)
    assert benchmark.stats["median"] <= 2.5
