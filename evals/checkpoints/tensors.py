"""Tensors in safetensors files, told from their headers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from compression_gates.evals.checkpoints.files import weight_files

_CHUNK = 1 << 22


class StoredTensor(NamedTuple):
    """The file of a tensor, its type and shape, and where its bytes begin and end."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def headers(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name: a safetensors file is the length of its header in 8 bytes, the
    header in JSON, and the tensors' bytes.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(min(length, file.stat().st_size)))
    found = {}
    for name, told in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in told["data_offsets"])
            found[name] = StoredTensor(file, told["dtype"], tuple(told["shape"]), begin, end)
    return found


def tensor_names(path: Path) -> set[str]:
    """Names of all tensors of a folder."""
    return {name for file in weight_files(path) for name in headers(file)}


def same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same bytes; reads up to the first difference."""
    if one.end - one.begin != other.end - other.begin:
        return False
    return all(a == b for a, b in zip(_chunks(one), _chunks(other), strict=True))


def is_zero(tensor: StoredTensor) -> bool:
    """Whether a tensor holds zero bytes alone."""
    return not any(chunk.strip(b"\0") for chunk in _chunks(tensor))


def _chunks(tensor: StoredTensor) -> Iterator[bytes]:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.begin)
        for start in range(tensor.begin, tensor.end, _CHUNK):
            yield stream.read(min(_CHUNK, tensor.end - start))
