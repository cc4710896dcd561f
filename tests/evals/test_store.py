import errno
import json
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.errors import EvalError
from compression_gates.evals.store.locks import locked
from compression_gates.evals.store.measurement import DamagedError, Measurement, key_of
from compression_gates.evals.store.store import NotStoredError, Store
from tests import processes  # noqa: F401  (what the server of processes imports once)


@dataclass(frozen=True)
class Files:
    """A folder and the digest of its files."""

    path: Path

    @property
    def digest(self) -> str:
        return key_of({file.name: file.read_text() for file in self.path.iterdir()})


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
        store.folder(ORIGIN, half, Files)
    assert not list((tmp_path / "measurements").iterdir())
    done = store.folder(ORIGIN, lambda path: path.mkdir(), Files)
    assert not list(done.path.iterdir())


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
    context = multiprocessing.get_context("forkserver")
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
    context = multiprocessing.get_context("forkserver")
    events = [context.Event() for _ in range(4)]
    ready, release, entered, leave = events
    path = tmp_path / "lock"
    holder = context.Process(target=_hold, args=(path, held_shared, ready, release))
    holder.start()
    assert ready.wait(30)
    other = context.Process(target=_hold, args=(path, wanted_shared, entered, leave))
    other.start()
    assert not entered.wait(0.5)
    release.set()
    assert entered.wait(30)
    leave.set()
    holder.join()
    other.join()


def test_a_killed_holder_releases_its_lock(tmp_path):
    context = multiprocessing.get_context("forkserver")
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
    with pytest.raises(EvalError, match="store "):
        Store(tmp_path / "file" / "below")


def test_somebody_s_own_gitignore_stays(tmp_path):
    (tmp_path / ".gitignore").write_text("mine")
    Store(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "mine"


def damaged_in(store: Store) -> list[str]:
    return [note.partition(": ")[2] for note in store.notes]


def rewritten(path: Path, **changes) -> None:
    """Writes a measurement again with other arrays, so that its digest is right."""
    found = Measurement.read(path)
    Measurement({**found.arrays, **changes}, found.origin).write(path)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"half"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: np.savez(path, x=np.zeros(3)),
        lambda path: np.savez_compressed(path, x=np.zeros(3), origin="{}", digest=""),
        lambda path: np.savez(path, x=np.zeros(3), origin="[" * 100_000, digest=""),
        lambda path: np.savez(path, x=np.array([{}], object), origin="{}", digest=""),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir(), (path / "file").touch()),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda path: Measurement({"x": np.zeros(3)}, {"model": "other"}).write(path),
    ],
)
def test_a_damaged_measurement_is_made_again(tmp_path, damage):
    store = Store(tmp_path)
    store.measurement(ORIGIN, lambda: {"x": np.arange(3.0)})
    (file,) = (tmp_path / "measurements").iterdir()
    damage(file)
    with pytest.raises(NotStoredError):
        Store(tmp_path, frozen=True).measurement(ORIGIN, dict)
    assert store.measurement(ORIGIN, lambda: {"x": np.arange(3.0)})["x"].tolist() == [0, 1, 2]
    assert len(store.notes) == 1
    assert "measurements/" in store.notes[0]
    again = Store(tmp_path)
    assert again.measurement(ORIGIN, dict)["x"].tolist() == [0, 1, 2]
    assert not again.notes


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_what_is_read(tmp_path_factory, place, bit):
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    written = Measurement({"x": np.arange(3.0), "t": np.array(["a", "β"])}, ORIGIN)
    written.write(path)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = Measurement.read(path)
    except DamagedError:
        return
    assert found.digest == written.digest


def test_arrays_that_fail_their_check_are_made_again(tmp_path):
    def check(arrays):
        if arrays["x"].ndim != 1:
            raise ValueError("x has shape ()")

    store = Store(tmp_path)
    store.measurement(ORIGIN, lambda: {"x": np.zeros(3)}, check=check)
    (file,) = (tmp_path / "measurements").iterdir()
    rewritten(file, x=np.array(1.0))
    store.measurement(ORIGIN, lambda: {"x": np.zeros(3)}, check=check)
    assert damaged_in(store) == ["x has shape ()"]
    with pytest.raises(ValueError, match="shape"):  # a fault of the scorer is no damage
        store.measurement({**ORIGIN, "model": "n"}, lambda: {"x": np.zeros(())}, check=check)


def test_a_damaged_measurement_that_is_not_kept_again_is_told_once(tmp_path):
    store = Store(tmp_path)
    store.measurement(ORIGIN, lambda: {"x": np.zeros(1)})
    (file,) = (tmp_path / "measurements").iterdir()
    file.write_bytes(b"half")
    for _ in range(2):
        store.measurement(ORIGIN, lambda: {"x": np.zeros(1)}, keep=lambda made: False)
    assert len(store.notes) == 1


def fill(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: (path / "config.json").write_text("[]"), "do not match their digest"),
        (lambda path: (path / "more.json").write_text(""), "do not match their digest"),
        (lambda path: (path / "config.json").unlink(), "do not match their digest"),
        (lambda path: path.with_name(f"{path.name}.json").unlink(), "was not finished"),
        (lambda path: path.with_name(f"{path.name}.json").write_text("[" * 9999), ""),
        (lambda path: path.with_name(f"{path.name}.json").write_text("[]"), ""),
        (
            lambda path: path.with_name(f"{path.name}.json").write_text(
                json.dumps({"origin": {"model": "other"}, "digest": Files(path).digest})
            ),
            "another origin",
        ),
        (lambda path: (shutil.rmtree(path), path.touch()), ""),
        (lambda path: (path / "folder").mkdir(), ""),
    ],
)
def test_a_damaged_folder_is_made_again(tmp_path, damage, told):
    store = Store(tmp_path)
    damage(store.folder(ORIGIN, fill, Files).path)
    with pytest.raises(NotStoredError):
        Store(tmp_path, frozen=True).folder(ORIGIN, fill, Files)
    found = store.folder(ORIGIN, fill, Files)
    assert (found.path / "config.json").read_text() == "{}"
    assert len(store.notes) == 1
    assert told in store.notes[0]
    again = Store(tmp_path)
    assert again.folder(ORIGIN, fill, Files) == found
    assert not again.notes


def test_notes_of_a_folder_are_kept_beside_it(tmp_path):
    def fill_with_notes(folder):
        fill(folder)
        return ["left one layer dense"]

    folder = Store(tmp_path).folder(ORIGIN, fill_with_notes, Files).path
    assert Store(tmp_path).notes_of(folder) == ["left one layer dense"]
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    silent = Store(tmp_path).folder({"model": "other"}, fill, Files).path
    assert Store(tmp_path).notes_of(silent) == []


def test_leftovers_of_killed_processes_are_removed_and_of_running_ones_stay(tmp_path):
    store = Store(tmp_path)
    rooms = {name: tmp_path / name for name in ("measurements", "candidates", "locks")}
    left = [
        rooms["measurements"] / "dead.npz.partial",
        rooms["measurements"] / "dead.predictions.npy.partial",
        rooms["locks"] / "old.lock",
    ]
    for path in left:
        path.write_bytes(b"half")
    for name in ("dead.partial", "dead.partial.x1.partial"):
        (rooms["candidates"] / name / "checkpoint").mkdir(parents=True)
        left.append(rooms["candidates"] / name)
    names = ("alive.partial", "alive.json.partial", "alive.partial.x1.partial")
    alive = [
        rooms["measurements"] / "alive.npz.partial",
        *(rooms["candidates"] / name for name in names),
    ]
    kept = [rooms["measurements"] / "kept.npz", rooms["candidates"] / "kept"]
    with store.locked("alive"):
        for path in (*alive, *kept):
            path.touch()
        Store(tmp_path)
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in (*alive, *kept))
    assert not list(rooms["locks"].iterdir())
    Store(tmp_path, frozen=True)
    assert all(path.exists() for path in alive)


def _count(path, lock, times):
    for _ in range(times):
        with locked(lock, temporary=True):
            path.write_text(str(int(path.read_text()) + 1))


def test_a_lock_whose_file_is_removed_still_excludes(tmp_path):
    context = multiprocessing.get_context("fork")
    path, lock = tmp_path / "count", tmp_path / "lock"
    path.write_text("0")
    workers = [context.Process(target=_count, args=(path, lock, 200)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert path.read_text() == "800"
    assert not lock.exists()


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_store_that_cannot_be_written_serves_what_it_holds(tmp_path, monkeypatch, error):
    store = Store(tmp_path)
    store.measurement(ORIGIN, lambda: {"x": np.zeros(1)})
    store.folder(ORIGIN, fill, Files)

    def refused(*arguments, **options):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("os.open", refused)
    store = Store(tmp_path)
    assert store.measurement(ORIGIN, dict)["x"].tolist() == [0]
    store.folder(ORIGIN, fill, Files)
    with pytest.raises(EvalError, match=f"store .*: {os.strerror(error)}"):
        store.measurement({"model": "new"}, dict)
    with pytest.raises(EvalError, match=f"store .*: {os.strerror(error)}"):
        store.folder({"model": "new"}, fill, Files)
