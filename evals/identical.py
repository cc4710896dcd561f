"""Whether two checkpoints hold the same weights, bit by bit, whatever files they are split into."""

import json
from collections.abc import Iterator
from pathlib import Path

from evals.checkpoint import Checkpoint, weight_files
from evals.errors import EvalError

_CHUNK = 1 << 22
Tensor = tuple[Path, int, int]
"""The file of a tensor, and where its bytes begin and end."""


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are one path, or hold the same tensors under the same names.

    Reads headers first, and bytes only where all names, types and shapes agree, up to the first
    difference. Formats other than safetensors are compared file by file; an adapter is never
    its base. What cannot be read is not the same.
    """
    if one.form != other.form or bool(one.base) != bool(other.base):
        return False
    if (one.path.resolve(), one.file) == (other.path.resolve(), other.file):
        return True
    if one.base and other.base and not same_weights(one.base, other.base):
        return False
    try:
        if one.file or other.file:
            files = [side.path / side.file for side in (one, other)]
            return _same_bytes(*((file, 0, file.stat().st_size) for file in files))
        headers = [_tensors(side.path) for side in (one, other)]
    except (EvalError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if not headers[0] or headers[0].keys() != headers[1].keys():
        return False
    return all(_same_bytes(headers[0][key], headers[1][key]) for key in headers[0])


def _tensors(path: Path) -> dict[tuple, Tensor]:
    """Every tensor by name, type and shape: a safetensors file is the length of its header in 8
    bytes, the header in JSON, and the tensors' bytes."""
    found = {}
    for file in weight_files(path):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        for name, told in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in told["data_offsets"])
                found[name, told["dtype"], tuple(told["shape"])] = (file, begin, end)
    return found


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    if one[2] - one[1] != other[2] - other[1]:
        return False
    return all(a == b for a, b in zip(_chunks(*one), _chunks(*other), strict=True))


def _chunks(file: Path, begin: int, end: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(begin)
        for start in range(begin, end, _CHUNK):
            yield stream.read(min(_CHUNK, end - start))
