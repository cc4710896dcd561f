"""A baseline's log-probabilities on disk, with a digest of every block of rows.

The file is an array ``(tokens, vocabulary)`` of float32 in numpy's format, behind which stand two
more arrays: where each block begins, ``(blocks,)``, and the digests of the blocks and, last, of
the file's name and everything but the rows, ``(blocks + 1, 32)``. A block is verified when it is
read, so that a table of many gigabytes is read once.
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
"""Entries of a block at most, unless a row has more."""
_HEADER = 128
"""Bytes before the rows. Fixed, so that rows can be written in any order."""
_DIGEST = hashlib.sha256().digest_size


def blocks(start: int, stop: int, vocabulary: int) -> Iterator[tuple[int, int]]:
    """First and last row (excluded) of each block of the rows of a window."""
    step = max(BLOCK // vocabulary, 1)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


class TableWriter:
    """Writes a table window by window, in any order, under a temporary name until it is whole.

    Args:
        path: of the file.
        offsets: ``(windows + 1,)``, the first row of each window, and the number of rows.
        vocabulary: entries of a row.

    Raises:
        EvalError: the disk is full, or cannot be written to.
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
        with _told(self.path):
            self._stream = self._partial.open("wb")
        return self

    def put(self, start: int, rows: np.ndarray) -> None:
        """Writes the rows ``(tokens, vocabulary)`` of the window that begins at ``start``."""
        for first, last in blocks(start, start + len(rows), self.shape[1]):
            content = rows[first - start : last - start].astype("<f4", copy=False).tobytes()
            self._digests[first] = _digest(first, content)
            with _told(self.path):
                self._stream.seek(_HEADER + first * self.shape[1] * 4)
                self._stream.write(content)

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with _told(self.path), self._stream as stream:
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
    """A table that is read block by block, from one descriptor: another process may put another
    table in its place meanwhile.

    Raises:
        DamagedError: the file is not what was written.
    """

    def __init__(self, path: Path):
        with ExitStack() as opened:
            try:
                if not path.is_file():
                    raise ValueError("not a file")
                self._stream = opened.enter_context(path.open("rb"))
                self.shape, self._digests = _described(path.name, self._stream)
            except Exception as error:  # whatever numpy makes of other bytes
                raise DamagedError(f"cannot be read ({type(error).__name__})") from error
            self._opened = opened.pop_all()

    def __enter__(self) -> "PredictionTable":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A block ``(stop - start, vocabulary)``, as :func:`blocks` gives its ends.

        Raises:
            DamagedError: it is not what was written.
        """
        self._stream.seek(_HEADER + start * self.shape[1] * 4)
        content = self._stream.read((stop - start) * self.shape[1] * 4)
        if self._digests.get(start) != _digest(start, content):
            raise DamagedError("its rows do not match their digest")
        return np.frombuffer(bytearray(content), "<f4").reshape(stop - start, self.shape[1])

    def check(self) -> None:
        """Raises a DamagedError unless every block is what was written."""
        for start, stop in pairwise([*sorted(self._digests), self.shape[0]]):
            self.rows(start, stop)


def _described(name: str, stream: io.BufferedReader) -> tuple[tuple[int, int], dict[int, bytes]]:
    header = stream.read(_HEADER)
    inner = io.BytesIO(header)
    np.lib.format.read_magic(inner)
    shape, _, _ = np.lib.format.read_array_header_1_0(inner)
    if header != _header(shape):
        raise ValueError("another header")
    end = _HEADER + shape[0] * shape[1] * 4
    size = os.fstat(stream.fileno()).st_size
    if not _HEADER < end < size:
        raise ValueError("cut off")
    stream.seek(end)
    trailer = stream.read(size - end)
    inner = io.BytesIO(trailer)
    starts, digests = (np.lib.format.read_array(inner, allow_pickle=False) for _ in range(2))
    own = digests[:-1].tobytes()
    if trailer != _trailer(name, header, starts.tolist(), own):
        raise ValueError("another trailer")
    parts = [own[place : place + _DIGEST] for place in range(0, len(own), _DIGEST)]
    return shape, dict(zip(starts.tolist(), parts, strict=True))


def _header(shape: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, described)
    content = stream.getvalue()
    if len(content) != _HEADER:
        raise ValueError(f"{shape} is no shape of a table")
    return content


def _trailer(name: str, header: bytes, starts: Sequence[int], digests: bytes) -> bytes:
    places = np.array(starts, "<i8")
    whole = digests + hashlib.sha256(name.encode() + header + places.tobytes() + digests).digest()
    stream = io.BytesIO()
    np.lib.format.write_array(stream, places)
    np.lib.format.write_array(stream, np.frombuffer(whole, np.uint8).reshape(-1, _DIGEST))
    return stream.getvalue()


def _digest(start: int, content: bytes) -> bytes:
    return hashlib.sha256(f"{start}\0".encode() + content).digest()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what a disk refuses into one line."""
    try:
        yield
    except OSError as error:
        raise EvalError(
            f"the baseline's predictions cannot be written to {path.parent}: {error.strerror}"
        ) from error
