"""A baseline's predictions on disk, with a digest of every block of rows.

A table holds the last hidden states of the predicted tokens, or their logits. The weights of the
head that computes logits from states are a table too, which the tables of all data sets share.

The file is an array ``(rows, width)`` in numpy's format, in the dtype of the model (bfloat16 as
uint16), followed by three more arrays: the first row of each block, ``(blocks,)``; the facts as
JSON; and SHA-256 digests ``(blocks + 1, 32)``, one of each block and a last one of the file's name,
its header and the other two arrays. Each block is verified when it is read, so that a table of many
gigabytes is read only once.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from compression_gates.evals.errors import EvalError
from compression_gates.evals.store.measurement import DamagedError

BLOCK = 1 << 22
"""Largest number of entries of a block, unless a single row has more."""
_HEADER = 128
"""Number of bytes before the rows. It is fixed, so that rows can be written in any order."""
_DIGEST = hashlib.sha256().digest_size
_DTYPES = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
"""Numpy's descriptions of the dtypes of torch."""
Facts = Mapping[str, object]


def blocks(start: int, stop: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of each block of a window's rows ``start`` to ``stop``."""
    step = max(BLOCK // width, 1)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


class TableWriter:
    """Writes a table window by window, in any order.

    The file has a temporary name until it is complete, and is deleted if the block raises.

    Args:
        path: path of the file.
        offsets: ``(windows + 1,)``, the first row of each window, then the number of rows.
        width: number of entries of a row.
        dtype: dtype of the rows.
        facts: what else a reader needs, as for ``json.dumps``.

    Raises:
        EvalError: the disk is full or not writable.
    """

    def __init__(
        self, path: Path, offsets: Sequence[int], width: int, dtype: torch.dtype, facts: Facts
    ):
        self.path, self.facts = path, facts
        self._layout = _Layout((int(offsets[-1]), width), str(dtype).removeprefix("torch."), facts)
        self._starts = [
            first
            for start, stop in pairwise(map(int, offsets))
            for first, _ in blocks(start, stop, width)
        ]
        self._digests: dict[int, bytes] = {}
        self._partial = path.with_name(f"{path.name}.partial")

    def __enter__(self) -> "TableWriter":
        with _disk_errors(self.path):
            self._stream = self._partial.open("wb")
        return self

    def put(self, start: int, rows: torch.Tensor) -> None:
        """Write the rows ``(tokens, width)`` of the window that begins at ``start``."""
        for first, last in blocks(start, start + len(rows), self._layout.shape[1]):
            block = rows[first - start : last - start].contiguous()
            content = block.view(torch.uint8).numpy().tobytes()
            self._digests[first] = _digest(first, content)
            with _disk_errors(self.path):
                self._stream.seek(self._layout.position(first))
                self._stream.write(content)

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with _disk_errors(self.path), self._stream as stream:
                if kind is None:
                    self._finish(stream)
            if kind is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self, stream: io.BufferedWriter) -> None:
        stream.seek(0)
        stream.write(self._layout.header())
        stream.seek(self._layout.position(self._layout.shape[0]))
        digests = b"".join(self._digests[start] for start in self._starts)
        stream.write(self._layout.trailer(self.path.name, self._starts, digests))


class PredictionTable:
    """Reads a table block by block.

    The file stays open, so that all blocks are of one table even if another process replaces it.

    Attributes:
        shape: number of rows and their width.
        facts: as they were written.
        digest: hash of the whole content.

    Raises:
        DamagedError: the file is not what was written.
    """

    def __init__(self, path: Path):
        with ExitStack() as stack:
            try:
                if not path.is_file():
                    raise ValueError("not a file")
                self._stream = stack.enter_context(path.open("rb"))
                self._layout, self._digests, self.digest = _read_layout(path.name, self._stream)
            except Exception as error:  # numpy raises various types for damaged headers
                raise DamagedError(f"cannot be read ({type(error).__name__})") from error
            self._stack = stack.pop_all()
        self.shape, self.facts = self._layout.shape, self._layout.facts

    def __enter__(self) -> "PredictionTable":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return a block ``(stop - start, width)``.

        Args:
            start, stop: the ends of the block, as :func:`blocks` yields them.

        Raises:
            DamagedError: the block is not what was written.
        """
        position = self._layout.position(start)
        self._stream.seek(position)
        content = bytearray(self._layout.position(stop) - position)
        read = self._stream.readinto(content)
        if read != len(content) or self._digests.get(start) != _digest(start, content):
            raise DamagedError("its rows do not match their digest")
        dtype = getattr(torch, self._layout.dtype)
        return torch.frombuffer(content, dtype=dtype).view(stop - start, self.shape[1])

    def window(self, start: int, stop: int) -> torch.Tensor:
        """Return all rows ``(stop - start, width)`` of a window."""
        rows = torch.empty(stop - start, self.shape[1], dtype=getattr(torch, self._layout.dtype))
        for first, last in blocks(start, stop, self.shape[1]):
            rows[first - start : last - start] = self.rows(first, last)
        return rows

    def check(self) -> None:
        """Raise a DamagedError unless every block is what was written."""
        for start, stop in pairwise([*sorted(self._digests), self.shape[0]]):
            self.rows(start, stop)


@dataclass(frozen=True)
class _Layout:
    """What surrounds the rows of a table: its header and its trailer."""

    shape: tuple[int, int]
    dtype: str
    facts: Facts

    def position(self, row: int) -> int:
        """Return the position of a row in the file."""
        return _HEADER + row * self.shape[1] * np.dtype(_DTYPES[self.dtype]).itemsize

    def header(self) -> bytes:
        stream = io.BytesIO()
        descr = _DTYPES[self.dtype]
        fields = {"descr": descr, "fortran_order": False, "shape": tuple(self.shape)}
        np.lib.format.write_array_header_1_0(stream, fields)
        content = stream.getvalue()
        if len(content) != _HEADER:
            raise ValueError(f"the shape {self.shape} does not fit into the header")
        return content

    def trailer(self, name: str, starts: Sequence[int], digests: bytes) -> bytes:
        first_rows = np.array(starts, "<i8")
        facts = json.dumps([self.dtype, self.facts], sort_keys=True).encode()
        content = name.encode() + self.header() + first_rows.tobytes() + facts + digests
        stream = io.BytesIO()
        np.lib.format.write_array(stream, first_rows)
        np.lib.format.write_array(stream, np.frombuffer(facts, np.uint8))
        rows = np.frombuffer(digests + hashlib.sha256(content).digest(), np.uint8)
        np.lib.format.write_array(stream, rows.reshape(-1, _DIGEST))
        return stream.getvalue()


def _read_layout(name: str, stream: io.BufferedReader) -> tuple[_Layout, dict[int, bytes], str]:
    """Return the layout of a table, the digest of each block by its first row, and the last
    digest."""
    header = stream.read(_HEADER)
    inner = io.BytesIO(header)
    np.lib.format.read_magic(inner)
    shape, _, dtype = np.lib.format.read_array_header_1_0(inner)
    end = _HEADER + shape[0] * shape[1] * dtype.itemsize
    size = os.fstat(stream.fileno()).st_size
    if not _HEADER < end < size:
        raise ValueError("truncated")
    stream.seek(end)
    trailer = stream.read(size - end)
    inner = io.BytesIO(trailer)
    starts, facts, digests = (np.lib.format.read_array(inner) for _ in range(3))
    layout = _Layout(shape, *json.loads(facts.tobytes()))
    *of_blocks, last = (digest.tobytes() for digest in digests)
    if header != layout.header():
        raise ValueError("unexpected header")
    if trailer != layout.trailer(name, starts.tolist(), b"".join(of_blocks)):
        raise ValueError("unexpected trailer")
    return layout, dict(zip(starts.tolist(), of_blocks, strict=True)), last.hex()


def _digest(start: int, content: bytes) -> bytes:
    sha = hashlib.sha256(f"{start}\0".encode())
    sha.update(content)
    return sha.digest()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Raise an EvalError in place of an error of the file system."""
    try:
        yield
    except OSError as error:
        raise EvalError(
            f"the baseline's predictions cannot be written to {path.parent}: {error.strerror}; "
            "choose another store"
        ) from error
