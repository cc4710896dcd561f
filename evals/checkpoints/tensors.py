"""Tensors in safetensors files, located by the headers of the files."""

import json
from collections.abc import Iterator
from operator import index
from pathlib import Path
from typing import NamedTuple

from compression_gates.evals.checkpoints.files import weight_files

_CHUNK = 1 << 22


class StoredTensor(NamedTuple):
    """A tensor in a file: its dtype, its shape, and the range of its bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def headers(file: Path) -> dict[str, StoredTensor]:
    """Read the tensors of a safetensors file by name, without their values.

    Such a file consists of the length of its header in 8 bytes, the header in JSON, and the bytes
    of the tensors.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a safetensors file.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, file.stat().st_size))
    tensors = {}
    try:
        for name, entry in json.loads(header).items():
            if name != "__metadata__":
                begin, end = (8 + length + index(offset) for offset in entry["data_offsets"])
                shape = tuple(map(index, entry["shape"]))
                tensors[name] = StoredTensor(file, str(entry["dtype"]), shape, begin, end)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file.name}: not a safetensors file") from error
    return tensors


def tensor_names(path: Path) -> set[str]:
    """Return the names of all tensors in a checkpoint's folder."""
    return {name for file in weight_files(path) for name in headers(file)}


def same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Return whether two tensors have the same bytes; reads only up to the first difference."""
    if one.end - one.begin != other.end - other.begin:
        return False
    return all(a == b for a, b in zip(_chunks(one), _chunks(other), strict=True))


def is_zero(tensor: StoredTensor) -> bool:
    """Return whether a tensor consists of zero bytes only."""
    return not any(chunk.strip(b"\0") for chunk in _chunks(tensor))


def _chunks(tensor: StoredTensor) -> Iterator[bytes]:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.begin)
        for start in range(tensor.begin, tensor.end, _CHUNK):
            yield stream.read(min(_CHUNK, tensor.end - start))
