"""Damaged and forged stores: what differs is made again, and no number changes."""

import shutil
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest

from compression_gates.evals.store.array_schemas import check
from compression_gates.evals.store.measurement import Measurement
from compression_gates.evals.store.store import Store
from tests.fuzz.mutations import VALUES, mutated_bytes, mutated_json_file
from tests.fuzz.small import Small, near


@pytest.fixture
def whole(measured_store):
    """A store, and the numbers that it holds."""
    folder, numbers, _ = measured_store
    return folder / "store", numbers


def forged(rng: Random, array: np.ndarray) -> np.ndarray:
    """Something else in place of an array."""
    match rng.randrange(8):
        case 0:
            return array[..., None]
        case 1:
            return array[: len(array) // 2] if array.ndim else array[None]
        case 2:
            try:
                return array.astype(rng.choice(("f8", "f2", "i1", "U3", "S3", "c16", "?")))
            except (ValueError, TypeError):
                return array.astype(object)  # texts that are no numbers
        case 3:
            return array.astype(object)
        case 4:
            return np.array(rng.choice([v for v in VALUES if not isinstance(v, list | dict)]))
        case 5:
            return np.zeros(array.shape, array.dtype)
        case 6:
            return array[::-1] if array.ndim else array
        case _:
            return np.full(array.shape, rng.choice((np.nan, np.inf, -1, 2**40)))


def forge(rng: Random, path: Path) -> None:
    """Writes an entry with other arrays or another origin, and the right digest."""
    found = Measurement.read(path)
    arrays, origin = dict(found.arrays), dict(found.origin)
    name = rng.choice(list(arrays))
    match rng.randrange(6):
        case 0:
            del arrays[name]
        case 1:
            arrays["more"] = arrays[name]
        case 2:
            origin[rng.choice(list(origin))] = "another"
        case _:
            arrays[name] = forged(rng, arrays[name])
    with suppress(ValueError, TypeError, OverflowError):  # numpy cannot write it
        Measurement(arrays, origin).write(path)


class Entries:
    """Asks for entries of which others stand in the store."""

    def __init__(self, whole: Path, root: Path):
        self.files, self.root = sorted(whole.glob("measurements/*.npz")), root
        self.store = Store(root)

    def __call__(self, rng: Random) -> None:
        file = rng.choice(self.files)
        original = Measurement.read(file)
        path = self.root / "measurements" / file.name
        if is_forged := rng.random() < 0.5:
            shutil.copy(file, path)
            forge(rng, path)
        else:
            path.write_bytes(mutated_bytes(rng, file.read_bytes()))
        found = self.store.measurement(
            original.origin, lambda: original.arrays,
            check=lambda arrays: check(arrays, original.origin),
        )  # fmt: skip
        assert is_forged or found.digest == original.digest


def test_entries(each, whole, tmp_path):
    each(150, Entries, whole[0], tmp_path, share=1)


class Stores:
    """Judges with a store of which some files are others; no number changes."""

    def __init__(self, whole: Path, expected: dict, folder: Path):
        self.whole, self.expected, self.root = whole, expected, folder / "store"
        self.small = Small(folder)

    def __call__(self, rng: Random) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.whole, self.root)
        self.change(rng)
        lab = self.small.lab(self.root)
        self.check(self.small.numbers(lab))
        again = self.small.lab(self.root)
        assert self.small.numbers(again) == near(self.small.numbers(lab))
        assert not again.bench.store.notes

    def change(self, rng: Random) -> None:
        files = sorted(file for file in self.root.rglob("*") if file.is_file())
        for _ in range(rng.randint(1, 3)):
            file, other = rng.choice(files), rng.choice(files).read_bytes()
            content = file.read_bytes()
            mutated = mutated_json_file if file.suffix == ".json" and content else mutated_bytes
            file.write_bytes(rng.choice((b"", other, mutated(rng, content))))

    def check(self, numbers: dict) -> None:
        assert numbers == near(self.expected)


def test_whole_stores(each, whole, tmp_path):
    each(2, Stores, *whole, tmp_path, share=1)


class ForgedStores(Stores):
    """Judges with a store that holds other numbers under the right digests."""

    def change(self, rng: Random) -> None:
        for file in rng.sample(sorted(self.root.glob("measurements/*.npz")), 3):
            forge(rng, file)

    def check(self, numbers: dict) -> None: ...


def test_forged_stores(each, whole, tmp_path):
    each(2, ForgedStores, *whole, tmp_path, share=1)
