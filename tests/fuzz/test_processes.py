"""Runs that are killed, that share a store, or that cannot write to it."""

import errno
import io
import os
from pathlib import Path
from random import Random

import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.store.store import Store
from tests.fuzz.small import Small, near, numbers_of
from tests.processes import result_of, start


@pytest.fixture
def expected(measured_store):
    """A folder with a store, and the numbers that are measured with it."""
    return measured_store[:2]


def numbers_and_notes(folder: Path) -> tuple[dict, list[str]]:
    small = Small(folder)
    lab = small.lab(folder / "store")
    return small.numbers(lab), lab.bench.store.notes


def numbers_and_makes(folder: Path) -> None:
    """Measures with the store in a folder, and writes a line for each thing that is made."""
    original = Store._read_or_make

    def recorded(self, key, path, read, make):
        def make_and_tell():
            with (folder / "made").open("a") as stream:
                stream.write(f"{key}\n")
            return make()

        return original(self, key, path, read, make_and_tell)

    Store._read_or_make = recorded
    numbers_of(folder)


def check_whole(folder: Path, expected: dict) -> None:
    """What is in the store of a folder is right, and no process has left anything else."""
    numbers, notes = result_of(numbers_and_notes, folder)
    assert numbers == near(expected)
    # A candidate that was made when its process was killed is made again.
    assert all("was not finished" in note for note in notes)
    names = [path.name for path in (folder / "store").rglob("*")]
    assert not [name for name in names if ".partial" in name or name.endswith(".lock")]


def test_kills(measured_store, tmp_path, option):
    """At random times; the long form has fifty."""
    rng = Random(option("fuzz_seed") or 0)
    _, expected, longest = measured_store
    folder = made(tmp_path / "0")
    for number in range(50 if option("fuzz_examples") else 3):
        process = start(numbers_of, folder)
        process.join(rng.uniform(0, longest))
        process.kill()
        process.join()
        if rng.random() < 0.2:
            check_whole(folder, expected)
            folder = made(tmp_path / f"{number + 1}")
    check_whole(folder, expected)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_two_runs_on_one_store_make_everything_once(expected, tmp_path):
    processes = [start(numbers_and_makes, tmp_path) for _ in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    check_whole(tmp_path, expected[1])
    made = (tmp_path / "made").read_text().split()
    rooms = [tmp_path / "store" / "measurements", tmp_path / "store" / "candidates"]
    stored = [file.stem for file in rooms[0].glob("*.npz")]
    stored += [folder.name for folder in rooms[1].iterdir() if folder.is_dir()]
    assert sorted(made) == sorted(stored)


def read_only(folder: Path, batch_tokens: int | None) -> object:
    """The numbers, or what is told, where no file can be written."""

    def refused(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    small = Small(folder)
    os.open = Path.write_text = Path.unlink = refused
    lab = small.lab(folder / "store")
    lab.bench.trust_remote_code = batch_tokens is not None  # another key
    try:
        return small.numbers(lab)
    except EvalError as error:
        return str(error)


def test_a_store_that_cannot_be_written_serves_a_warm_run(expected):
    folder, numbers = expected
    assert result_of(read_only, folder, None) == near(numbers)
    assert "Read-only file system" in result_of(read_only, folder, 1)


def on_full_disk(folder: Path, free: int) -> str:
    """What is told where every write behind the first ``free`` bytes is refused."""
    original, written = Path.open, [0]

    class Filling(io.BufferedRandom):
        def write(self, content):
            written[0] += len(content)
            if written[0] > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content)

    def open_(self, mode="r", *arguments, **options):
        if mode == "wb" and self.name.endswith(".partial"):
            return Filling(io.FileIO(self, "w+"))
        return original(self, mode, *arguments, **options)

    small = Small(folder)
    Path.open = open_
    try:
        small.numbers(small.lab(folder / "store"))
    except EvalError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("free", [100, 300_000])
def test_a_full_disk_is_told_in_one_line(tmp_path, free):
    told = result_of(on_full_disk, tmp_path, free)
    assert "No space left on device" in told
    assert len(told.splitlines()) == 1
    assert not list((tmp_path / "store").rglob("*.partial*"))
