"""The store: an append-only folder of measurements and candidates, safe under several workers.

The key of an entry is the hash of its origin. The first process that needs an entry makes it under
a lock; other processes wait for the lock and then read the entry. A process that is killed releases
its locks and leaves no partial entry; its temporary files are removed the next time the store is
opened. An entry that does not match the digest that was written with it is made again.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from compression_gates.evals.errors import EvalError, first_line
from compression_gates.evals.store.locks import locked
from compression_gates.evals.store.measurement import DamagedError, Measurement, key_of

IGNORE_ALL = "*\n"
_PARTIAL, _LOCK, _RECORD = ".partial", ".lock", ".json"
_RECORD_BYTES = 1 << 20
"""Maximum size of the record of a candidate."""


class NotStoredError(EvalError):
    """An entry is missing from a frozen store."""


class HasDigest(Protocol):
    """The content of a folder of the store."""

    @property
    def digest(self) -> str: ...


Opened = TypeVar("Opened", bound=HasDigest)
Entry = TypeVar("Entry")


class Store:
    """A folder ``root`` with ``measurements/``, ``candidates/`` and ``locks/``.

    Attributes:
        frozen: no entries are made; a missing one raises :class:`NotStoredError`.
        notes: one line for each damaged entry that was made again.

    Raises:
        EvalError: the folder cannot be created or written to.
    """

    def __init__(self, root: Path, frozen: bool = False):
        self.root = Path(root)
        self.frozen = frozen
        self.notes: list[str] = []
        with self._writable():
            for folder in ("measurements", "candidates", "locks"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                ignore.write_text(IGNORE_ALL)
        if not frozen:
            self._remove_leftovers()

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Convert an OSError of the block to an EvalError that names the store."""
        try:
            yield
        except OSError as error:
            raise EvalError(f"store {self.root}: {error.strerror or error}") from error

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the exclusive lock ``name``."""
        with ExitStack() as stack:
            with self._writable():  # errors of the block itself are not about the store
                stack.enter_context(locked(self._lock_path(name), temporary=True))
            yield

    def _lock_path(self, name: str) -> Path:
        return self.root / "locks" / f"{name}{_LOCK}"

    def beside(self, origin: Mapping[str, object], name: str) -> Path:
        """Return the path of a large part of a measurement, such as a table of predictions."""
        return self.root / "measurements" / f"{key_of(origin)}.{name}"

    def discard(self, path: Path, reason: object) -> None:
        """Remove a damaged entry and add a note. The caller must hold the lock of the entry."""
        self.notes.append(f"{path.relative_to(self.root)}: {reason}")
        with self._writable():
            _remove(path)

    def _read_or_make(
        self, key: str, path: Path, read: Callable[[], Entry], make: Callable[[], Entry]
    ) -> Entry:
        """Return the entry at ``path``; if it is missing or damaged, make it under the lock of
        ``key``."""
        with suppress(DamagedError):
            if path.exists():
                return read()
        if self.frozen:
            raise NotStoredError(f"{key} is not stored in {self.root}")
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
        """Return the measurement of ``origin``; make and store it if it is missing or damaged.

        Args:
            origin: everything that determines the arrays.
            make: returns the arrays.
            keep: whether arrays are stored; those that are not are made again the next time.
            check: raises a ValueError if the arrays are invalid.
        """
        key = key_of(origin)
        path = self.root / "measurements" / f"{key}.npz"

        def read() -> Measurement:
            return _read(path, key, check)

        def measure() -> Measurement:
            arrays = make()
            if check is not None:
                check({name: np.asarray(array) for name, array in arrays.items()})
            if keep is not None and not keep(arrays):
                return Measurement(arrays, origin)
            with self._writable():
                Measurement(arrays, origin).write(path)
            return read()

        return self._read_or_make(key, path, read, measure)

    def folder(
        self,
        origin: Mapping[str, object],
        make: Callable[[Path], Sequence[str] | None],
        open_: Callable[[Path], Opened],
    ) -> Opened:
        """Return the content of the folder of ``origin``; make it if it is missing or damaged.

        Args:
            origin: everything that determines the content.
            make: creates and fills the folder at a temporary path, and may return notes for
                :meth:`notes_of`.
            open_: opens the folder; the result has a digest of its files.
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

        return self._read_or_make(key, path, lambda: _open(path, key, open_), fill)

    def notes_of(self, folder: Path) -> list[str]:
        """Return the notes that were stored when a folder of :meth:`folder` was made."""
        return list(map(str, json.loads(_record_path(folder).read_bytes()).get("notes", ())))

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of processes that were killed, but not of running ones."""
        leftovers: dict[str, list[Path]] = {}
        with suppress(OSError):
            for folder in ("measurements", "candidates"):
                for path in (self.root / folder).glob(f"*{_PARTIAL}*"):
                    # The lock has the name of the entry's key; that of a table has its full name.
                    name = path.name.partition(_PARTIAL)[0]
                    key = name.removesuffix(".npz").removesuffix(_RECORD)
                    leftovers.setdefault(key, []).append(path)
            for path in (self.root / "locks").glob(f"*{_LOCK}"):
                leftovers.setdefault(path.name.removesuffix(_LOCK), [])
            for name, paths in leftovers.items():
                with locked(self._lock_path(name), temporary=True, wait=False) as free:
                    for path in paths if free else ():
                        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path, key: str, check: Callable[[Mapping], None] | None) -> Measurement:
    """Read the measurement with a key.

    Raises:
        DamagedError: the file is damaged, has another key, or ``check`` rejects its arrays.
    """
    measurement = Measurement.read(path)
    if key_of(measurement.origin) != key:
        raise DamagedError("it has another origin")
    try:
        if check is not None:
            check(measurement.arrays)
    except ValueError as error:
        raise DamagedError(str(error)) from error
    return measurement


def _record_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_RECORD}")


def _write_record(
    folder: Path, origin: Mapping[str, object], digest: str, notes: Sequence[str]
) -> None:
    """Write the origin, the digest and the notes of a folder to the file beside it."""
    path = _record_path(folder)
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    record = {"origin": origin, "digest": digest, "notes": list(notes)}
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.replace(path)


def _open(folder: Path, key: str, open_: Callable[[Path], Opened]) -> Opened:
    """Open the folder with a key.

    Raises:
        DamagedError: the folder is incomplete, has another key, or does not match its digest.
    """
    record = _record_path(folder)
    try:
        if not record.is_file() or record.stat().st_size > _RECORD_BYTES:
            raise DamagedError("it was not finished")
        fields = json.loads(record.read_bytes())
        if key_of(fields["origin"]) != key:
            raise DamagedError("it has another origin")
        opened = open_(folder)
        intact = opened.digest == fields["digest"]
    except DamagedError:
        raise
    except (EvalError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedError(first_line(error)) from error
    if not intact:
        raise DamagedError("its files do not match their digest")
    return opened
