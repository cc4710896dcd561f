"""Measurements: the scores of one model on one data set, item by item, and their origin."""

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
    """A file of a store that differs from what was written."""


@dataclass(frozen=True)
class Measurement:
    """Arrays by name, and their origin.

    Attributes:
        arrays: numbers or strings; the first axis runs over items (tokens, prompts, texts).
        origin: everything that determines the arrays: model, data, protocol, environment and code.
            The key of a measurement is the hash of its origin.
    """

    arrays: Mapping[str, np.ndarray]
    origin: Mapping[str, object]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def digest(self) -> str:
        """Hash of the origin and of the names, shapes, dtypes and values of the arrays."""
        sha = hashlib.sha256(json.dumps(self.origin, sort_keys=True).encode())
        for name, array in sorted(self.arrays.items()):
            array = np.asarray(array)
            sha.update(json.dumps([name, array.dtype.str, array.shape]).encode())
            sha.update(array.tobytes())
        return sha.hexdigest()

    def write(self, path: Path) -> None:
        """Write to a temporary file and rename it, so that readers never see a partial file.

        The caller must hold the lock of the measurement, because the temporary name is not unique.
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
        """Read the measurement that :meth:`write` wrote to ``path``.

        Raises:
            DamagedError: the file holds no measurement, or its content does not match its digest.
        """
        if not path.is_file():  # opening a pipe would block
            raise DamagedError("not a file")
        try:
            with ZipFile(path) as archive:
                if any(part.compress_type != ZIP_STORED for part in archive.infolist()):
                    raise ValueError("it is compressed")  # a small file could fill the memory
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            measurement = cls(arrays, json.loads(str(arrays.pop(_ORIGIN))))
            intact = str(arrays.pop(_DIGEST)) == measurement.digest
        except Exception as error:  # zipfile, numpy and json raise many types for damaged files
            raise DamagedError(f"cannot be read ({type(error).__name__})") from error
        if not intact:
            raise DamagedError("its content does not match its digest")
        return measurement


def key_of(origin: Mapping[str, object]) -> str:
    """Return the hash of an origin, which is the same in every process."""
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:32]
