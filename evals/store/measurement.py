"""Measurements: what one model scored on one data set, item by item, and what produced it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from compression_gates.evals.errors import EvalError

_ORIGIN, _DIGEST = "origin", "digest"


class DamagedError(EvalError):
    """Something in a store that is not what was written there."""


@dataclass(frozen=True)
class Measurement:
    """Arrays by name, and the origin that their key is the hash of.

    Attributes:
        arrays: numbers or strings; the first axis runs over items (tokens, prompts, texts).
        origin: what produced them: model, data, protocol, environment, code.
    """

    arrays: Mapping[str, np.ndarray]
    origin: Mapping[str, object]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def digest(self) -> str:
        """Hash of the origin, and of names, shapes, dtypes and values of the arrays."""
        sha = hashlib.sha256(json.dumps(self.origin, sort_keys=True).encode())
        for name, array in sorted(self.arrays.items()):
            array = np.asarray(array)
            sha.update(json.dumps([name, array.dtype.str, array.shape]).encode())
            sha.update(array.tobytes())
        return sha.hexdigest()

    def write(self, path: Path) -> None:
        """Writes to a temporary name and renames, so that a reader sees all or nothing.

        The caller holds the measurement's lock, so the temporary name is its own.
        """
        partial = path.with_name(f"{path.name}.partial")
        header = {_ORIGIN: np.array(json.dumps(self.origin)), _DIGEST: np.array(self.digest)}
        try:
            with partial.open("wb") as stream:
                np.savez(stream, **header, **self.arrays)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> "Measurement":
        """What :meth:`write` wrote to ``path``.

        Raises:
            DamagedError: the file is something else.
        """
        if not path.is_file():  # a pipe would wait for a writer
            raise DamagedError("not a file")
        try:
            with ZipFile(path) as archive:
                if any(part.compress_type != ZIP_STORED for part in archive.infolist()):
                    raise ValueError("it is compressed")  # a small file could fill the memory
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            found = cls(arrays, json.loads(str(arrays.pop(_ORIGIN))))
            intact = str(arrays.pop(_DIGEST)) == found.digest
        except Exception as error:  # whatever zipfile, numpy and json make of other bytes
            raise DamagedError(f"cannot be read ({type(error).__name__})") from error
        if not intact:
            raise DamagedError("its content does not match its digest")
        return found


def key_of(origin: Mapping[str, object]) -> str:
    """Hash of an origin, stable over processes."""
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:32]
