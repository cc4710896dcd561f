"""Measurements: what one model scored on one data set, item by item, and what produced it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_ORIGIN = "origin"


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

    def write(self, path: Path) -> None:
        """Writes to a temporary name and renames, so that a reader sees all or nothing.

        The caller holds the measurement's lock, so the temporary name is its own.
        """
        partial = path.with_name(f"{path.name}.partial")
        try:
            with partial.open("wb") as stream:
                np.savez(stream, **{_ORIGIN: np.array(json.dumps(self.origin))}, **self.arrays)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> "Measurement":
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls(arrays, json.loads(str(arrays.pop(_ORIGIN))))


def key_of(origin: Mapping[str, object]) -> str:
    """Hash of an origin, stable over processes."""
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:32]
