import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from evals.errors import EvalError
from evals.locks import locked
from evals.measurement import Measurement, key_of
from evals.store import Store

ORIGIN = {"model": "m", "protocol": {"task": "text", "context": None}}


def test_a_measurement_is_made_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"nll": np.arange(3.0), "texts": np.array(["a", "β"])}

    for _ in range(2):
        found = Store(tmp_path).measurement(ORIGIN, make)
        assert found["nll"].tolist() == [0.0, 1.0, 2.0]
        assert found["texts"].tolist() == ["a", "β"]
        assert found.origin == ORIGIN
    assert len(calls) == 1


def test_keys_tell_origins_apart_and_ignore_order():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": "1"})


def test_a_failed_maker_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def broken():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        store.measurement(ORIGIN, broken)

    def half(path: Path):
        path.mkdir()
        (path / "half").touch()
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        store.folder(ORIGIN, half)
    assert not list((tmp_path / "measurements").iterdir())
    done = store.folder(ORIGIN, lambda path: path.mkdir())
    assert not list(done.iterdir())


def test_a_write_that_dies_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Measurement({}, ORIGIN).write(tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def _ask(root, log):
    def make():
        with open(log, "a") as stream:
            stream.write("made\n")
        time.sleep(0.2)
        return {"x": np.zeros(1)}

    Store(root).measurement(ORIGIN, make)


def test_workers_that_ask_together_get_one_measurement(tmp_path):
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [context.Process(target=_ask, args=(tmp_path / "s", log)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert log.read_text() == "made\n"


def _hold(path, shared, ready, release):
    with locked(path, shared):
        ready.set()
        release.wait()


@pytest.mark.parametrize(("held_shared", "wanted_shared"), [(True, False), (False, True)])
def test_timing_waits_for_scoring_and_scoring_for_timing(tmp_path, held_shared, wanted_shared):
    context = multiprocessing.get_context("spawn")
    events = [context.Event() for _ in range(4)]
    ready, release, entered, leave = events
    path = tmp_path / "lock"
    holder = context.Process(target=_hold, args=(path, held_shared, ready, release))
    holder.start()
    assert ready.wait(30)
    other = context.Process(target=_hold, args=(path, wanted_shared, entered, leave))
    other.start()
    assert not entered.wait(2)
    release.set()
    assert entered.wait(30)
    leave.set()
    holder.join()
    other.join()


def test_a_killed_holder_releases_its_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, never = context.Event(), context.Event()
    path = tmp_path / "lock"
    holder = context.Process(target=_hold, args=(path, False, ready, never))
    holder.start()
    assert ready.wait(30)
    holder.kill()
    holder.join()
    with locked(path):
        pass


def test_a_store_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EvalError, match="--store"):
        Store(tmp_path / "file" / "below")


def test_a_damaged_measurement_is_named(tmp_path):
    store = Store(tmp_path)
    store.measurement(ORIGIN, lambda: {"x": np.zeros(1)})
    (file,) = (tmp_path / "measurements").iterdir()
    file.write_bytes(b"half")
    with pytest.raises(EvalError, match="is damaged; delete it"):
        store.measurement(ORIGIN, dict)


def test_somebody_s_own_gitignore_stays(tmp_path):
    (tmp_path / ".gitignore").write_text("mine")
    Store(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "mine"
