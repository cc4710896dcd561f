"""A baseline's log-probabilities on disk, with a digest of every block of rows.

The file is an array ``(tokens, vocabulary)`` of float32 in numpy's format, followed by two more
arrays: the first row of each block, ``(blocks,)``, and SHA-256 digests ``(blocks + 1, 32)``, one of
each block and a last one of the file's name, its header and these two arrays. Each block is
verified when it is read, so that a table of many gigabytes is read only once.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np

from compression_gates.evals.errors import EvalError
from compression_gates.evals.store.measurement import DamagedError

BLOCK = 1 << 22
"""Largest number of entries of a block, unless a single row has more."""
_HEADER = 128
"""Number of bytes before the rows. It is fixed, so that rows can be written in any order."""
_DIGEST = hashlib.sha256().digest_size


def blocks(start: int, stop: int, vocabulary: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of each block of a window's rows ``start`` to ``stop``."""
    step = max(BLOCK // vocabulary, 1)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


class TableWriter:
    """Writes a table window by window, in any order.

    The file has a temporary name until it is complete, and is deleted if the block raises.

    Args:
        path: path of the file.
        offsets: ``(windows + 1,)``, the first row of each window, then the number of rows.
        vocabulary: number of entries of a row.

    Raises:
        EvalError: the disk is full or not writable.
    """

    def __init__(self, path: Path, offsets: Sequence[int], vocabulary: int):
        self.path, self.shape = path, (int(offsets[-1]), vocabulary)
        self._starts = [
            first
            for start, stop in pairwise(map(int, offsets))
            for first, _ in blocks(start, stop, vocabulary)
        ]
        self._digests: dict[int, bytes] = {}
        self._partial = path.with_name(f"{path.name}.partial")

    def __enter__(self) -> "TableWriter":
        with _disk_errors(self.path):
            self._stream = self._partial.open("wb")
        return self

    def put(self, start: int, rows: np.ndarray) -> None:
        """Write the rows ``(tokens, vocabulary)`` of the window that begins at ``start``."""
        for first, last in blocks(start, start + len(rows), self.shape[1]):
            content = rows[first - start : last - start].astype("<f4", copy=False).tobytes()
            self._digests[first] = _digest(first, content)
            with _disk_errors(self.path):
                self._stream.seek(_HEADER + first * self.shape[1] * 4)
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
        header = _header(self.shape)
        stream.seek(0)
        stream.write(header)
        stream.seek(_HEADER + self.shape[0] * self.shape[1] * 4)
        digests = b"".join(self._digests[start] for start in self._starts)
        stream.write(_trailer(self.path.name, header, self._starts, digests))


class PredictionTable:
    """Reads a table block by block.

    The file stays open, so that all blocks are of one table even if another process replaces it.

    Raises:
        DamagedError: the file is not what was written.
    """

    def __init__(self, path: Path):
        with ExitStack() as stack:
            try:
                if not path.is_file():
                    raise ValueError("not a file")
                self._stream = stack.enter_context(path.open("rb"))
                self.shape, self._digests = _read_layout(path.name, self._stream)
            except Exception as error:  # numpy raises various types for damaged headers
                raise DamagedError(f"cannot be read ({type(error).__name__})") from error
            self._stack = stack.pop_all()

    def __enter__(self) -> "PredictionTable":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return a block ``(stop - start, vocabulary)``.

        Args:
            start, stop: the ends of the block, as :func:`blocks` yields them.

        Raises:
            DamagedError: the block is not what was written.
        """
        self._stream.seek(_HEADER + start * self.shape[1] * 4)
        content = self._stream.read((stop - start) * self.shape[1] * 4)
        if self._digests.get(start) != _digest(start, content):
            raise DamagedError("its rows do not match their digest")
        return np.frombuffer(bytearray(content), "<f4").reshape(stop - start, self.shape[1])

    def check(self) -> None:
        """Raise a DamagedError unless every block is what was written."""
        for start, stop in pairwise([*sorted(self._digests), self.shape[0]]):
            self.rows(start, stop)


def _read_layout(name: str, stream: io.BufferedReader) -> tuple[tuple[int, int], dict[int, bytes]]:
    """Return the shape of a table, and the digest of each block by its first row."""
    header = stream.read(_HEADER)
    inner = io.BytesIO(header)
    np.lib.format.read_magic(inner)
    shape, _, _ = np.lib.format.read_array_header_1_0(inner)
    if header != _header(shape):
        raise ValueError("unexpected header")
    end = _HEADER + shape[0] * shape[1] * 4
    size = os.fstat(stream.fileno()).st_size
    if not _HEADER < end < size:
        raise ValueError("truncated")
    stream.seek(end)
    trailer = stream.read(size - end)
    inner = io.BytesIO(trailer)
    starts, digests = (np.lib.format.read_array(inner, allow_pickle=False) for _ in range(2))
    if trailer != _trailer(name, header, starts.tolist(), digests[:-1].tobytes()):
        raise ValueError("unexpected trailer")
    return shape, {
        start: digest.tobytes() for start, digest in zip(starts.tolist(), digests[:-1], strict=True)
    }


def _header(shape: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, fields)
    content = stream.getvalue()
    if len(content) != _HEADER:
        raise ValueError(f"the shape {shape} does not fit into the header")
    return content


def _trailer(name: str, header: bytes, starts: Sequence[int], digests: bytes) -> bytes:
    first_rows = np.array(starts, "<i8")
    layout = hashlib.sha256(name.encode() + header + first_rows.tobytes() + digests).digest()
    stream = io.BytesIO()
    np.lib.format.write_array(stream, first_rows)
    rows = np.frombuffer(digests + layout, np.uint8).reshape(-1, _DIGEST)
    np.lib.format.write_array(stream, rows)
    return stream.getvalue()


def _digest(start: int, content: bytes) -> bytes:
    return hashlib.sha256(f"{start}\0".encode() + content).digest()


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
