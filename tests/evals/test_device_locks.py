"""Locks of the CPU: processes that share a core wait for one another, others do not."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from compression_gates.evals.bench import Bench
from compression_gates.evals.models.device import lock_names
from compression_gates.evals.store.locks import locked
from compression_gates.evals.store.store import Store


@pytest.fixture
def on(monkeypatch, tmp_path):
    """``on(*cores)`` binds what follows to cores, and returns a bench with its locks."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))

    def bind(*cores: int) -> Bench:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores), raising=False)
        return Bench(Store(tmp_path / "store"))

    return bind


def is_free(folder: Path, core: int, shared: bool = False) -> bool:
    (path,) = folder.glob(f"gates-*-cpu-{core}.lock")
    with locked(path, shared=shared, wait=False) as held:
        return held


def test_a_timing_holds_each_core_of_its_process_alone(on, tmp_path):
    with on(0, 1).busy(alone=True):
        assert not any(is_free(tmp_path, core, shared=True) for core in (0, 1))
    assert is_free(tmp_path, 0)
    assert is_free(tmp_path, 1)


def test_timings_on_different_cores_do_not_wait_for_one_another(on, tmp_path):
    with ExitStack() as stack:
        for core in (0, 1):
            stack.enter_context(on(core).busy(alone=True))
        assert not any(is_free(tmp_path, core) for core in (0, 1))


def test_scorers_share_their_cores_and_keep_a_timing_from_them(on, tmp_path):
    with on(0, 1).busy(), on(1).busy():
        assert is_free(tmp_path, 1, shared=True)
        assert not is_free(tmp_path, 1)


def test_a_gpu_has_one_lock():
    assert lock_names("cuda:1") == ["cuda-1"]
