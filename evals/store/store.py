"""The store: an append-only folder of measurements and candidates, safe under several workers.

Everything is found by the hash of what produced it. Whoever asks first makes it, under a lock;
who asks meanwhile waits and reads. A killed process leaves its lock released and nothing
half-written; what it left is removed when the store is opened next. What is read is held against
the digest that was written with it, and made again where the two differ.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from compression_gates.evals.errors import EvalError, first_line
from compression_gates.evals.store.locks import locked, locked_if_free
from compression_gates.evals.store.measurement import DamagedError, Measurement, key_of

IGNORE_ALL = "*\n"
_PARTIAL, _LOCK, _RECORD = ".partial", ".lock", ".json"
_RECORD_BYTES = 1 << 20
"""Of the largest record of a candidate."""


class NotStoredError(EvalError):
    """Something that a frozen store does not hold."""


class HasDigest(Protocol):
    """What a folder of the store is opened as."""

    @property
    def digest(self) -> str: ...


Opened = TypeVar("Opened", bound=HasDigest)
Found = TypeVar("Found")


class Store:
    """A folder ``root`` with ``measurements/``, ``candidates/`` and ``locks/``.

    Attributes:
        frozen: nothing is made; what is not there yet raises :class:`NotStoredError`.
        notes: what was found damaged and was therefore made again, a line each.

    Raises:
        EvalError: it cannot be made or written to.
    """

    def __init__(self, root: Path, frozen: bool = False):
        self.root = Path(root)
        self.frozen = frozen
        self.notes: list[str] = []
        with self._writable():
            for room in ("measurements", "candidates", "locks"):
                (self.root / room).mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                ignore.write_text(IGNORE_ALL)
        if not frozen:
            self._remove_leftovers()

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Says in one line that the folder cannot be written to."""
        try:
            yield
        except OSError as error:
            raise EvalError(f"store {self.root}: {error.strerror or error}") from error

    def _check_frozen(self, key: str) -> None:
        if self.frozen:
            raise NotStoredError(f"{key} is not stored in {self.root}")

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Holds what is called ``name`` for this process alone."""
        with ExitStack() as held:
            with self._writable():  # of what is raised while it is held, nothing is about the store
                held.enter_context(locked(self._lock_path(name), temporary=True))
            yield

    def _lock_path(self, name: str) -> Path:
        return self.root / "locks" / f"{name}{_LOCK}"

    def beside(self, origin: Mapping[str, object], name: str) -> Path:
        """Where a measurement's larger part goes, such as a table of log-probabilities."""
        return self.root / "measurements" / f"{key_of(origin)}.{name}"

    def discard(self, path: Path, reason: object) -> None:
        """Removes a damaged entry, and keeps a note of it; its lock is held."""
        self.notes.append(f"{path.relative_to(self.root)}: {reason}")
        with self._writable():
            _remove(path)

    def _read_or_make(
        self, key: str, path: Path, read: Callable[[], Found], make: Callable[[], Found]
    ) -> Found:
        """What ``path`` holds, or where it holds nothing or what is damaged, what ``make`` makes
        under the lock of ``key``."""
        with suppress(DamagedError):
            if path.exists():
                return read()
        self._check_frozen(key)
        with self.locked(key):
            try:
                if path.exists():
                    return read()
            except DamagedError as error:
                self.discard(path, error)
            return make()

    def measurement(
        self,
        origin: Mapping[str, object],
        make: Callable[[], Mapping],
        keep: Callable[[Mapping], bool] | None = None,
        check: Callable[[Mapping], None] | None = None,
    ) -> Measurement:
        """The measurement of ``origin``; ``make`` gives its arrays if it is not stored yet, or if
        what is stored is damaged.

        Arrays that ``keep`` returns False for are not stored, and are made again next time.
        ``check`` raises a ValueError of arrays that are not what ``make`` gives.
        """
        key = key_of(origin)
        path = self.root / "measurements" / f"{key}.npz"

        def read() -> Measurement:
            return _read(path, key, check)

        def measure() -> Measurement:
            made = make()
            if check is not None:
                check({name: np.asarray(array) for name, array in made.items()})
            if keep is not None and not keep(made):
                return Measurement(made, origin)
            with self._writable():
                Measurement(made, origin).write(path)
            return read()

        return self._read_or_make(key, path, read, measure)

    def folder(
        self,
        origin: Mapping[str, object],
        make: Callable[[Path], Sequence[str] | None],
        open_: Callable[[Path], Opened],
    ) -> Opened:
        """What the folder of ``origin`` holds; ``make`` fills one at a temporary path if there is
        none, or if the one that is there is damaged.

        Args:
            origin: what its content follows from.
            make: fills a folder that does not exist yet, and may return notes for
                :meth:`notes_of`.
            open_: what the folder holds, with a digest of its files.
        """
        key = key_of(origin)
        path = self.root / "candidates" / key

        def fill() -> Opened:
            partial = path.with_name(f"{key}{_PARTIAL}")
            shutil.rmtree(partial, ignore_errors=True)
            notes = make(partial)
            with self._writable():
                partial.rename(path)
                opened = open_(path)
                _write_record(path, origin, opened.digest, notes or ())
            return opened

        return self._read_or_make(key, path, lambda: _opened(path, key, open_), fill)

    def notes_of(self, folder: Path) -> list[str]:
        """The notes that were returned when a folder of :meth:`folder` was filled."""
        return list(map(str, json.loads(_record_path(folder).read_bytes()).get("notes", ())))

    def _remove_leftovers(self) -> None:
        """Removes what killed processes left, but not what a running one is about to finish."""
        left: dict[str, list[Path]] = {}
        with suppress(OSError):
            for room in ("measurements", "candidates"):
                for path in (self.root / room).glob(f"*{_PARTIAL}*"):
                    name = path.name.partition(_PARTIAL)[0]
                    # Under the lock of their key, but for a table, which has its own.
                    key = name.removesuffix(".npz").removesuffix(_RECORD)
                    left.setdefault(key, []).append(path)
            for path in (self.root / "locks").glob(f"*{_LOCK}"):
                left.setdefault(path.name.removesuffix(_LOCK), [])
            for name, paths in left.items():
                with locked_if_free(self._lock_path(name)) as free:
                    for path in paths if free else ():
                        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path, key: str, check: Callable[[Mapping], None] | None) -> Measurement:
    """A measurement.

    Raises:
        DamagedError: it is not what was written there.
    """
    found = Measurement.read(path)
    if key_of(found.origin) != key:
        raise DamagedError("it is of another origin")
    try:
        if check is not None:
            check(found.arrays)
    except ValueError as error:
        raise DamagedError(str(error)) from error
    return found


def _record_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_RECORD}")


def _write_record(
    folder: Path, origin: Mapping[str, object], digest: str, notes: Sequence[str]
) -> None:
    """Writes what a folder was when it was made."""
    path = _record_path(folder)
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    record = {"origin": origin, "digest": digest, "notes": list(notes)}
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.replace(path)


def _opened(folder: Path, key: str, open_: Callable[[Path], Opened]) -> Opened:
    """What a folder holds.

    Raises:
        DamagedError: it is not what was made there.
    """
    record = _record_path(folder)
    try:
        if not record.is_file() or record.stat().st_size > _RECORD_BYTES:
            raise DamagedError("it was not finished")
        described = json.loads(record.read_bytes())
        if key_of(described["origin"]) != key:
            raise DamagedError("it is of another origin")
        found = open_(folder)
        intact = found.digest == described["digest"]
    except DamagedError:
        raise
    except (EvalError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedError(first_line(error)) from error
    if not intact:
        raise DamagedError("its files do not match their digest")
    return found
