"""The store: an append-only folder of measurements and candidates, safe under several workers.

Everything is found by the hash of what produced it. Whoever asks first makes it, under a lock;
who asks meanwhile waits and reads. A killed process leaves its lock released and nothing
half-written.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import BadZipFile

from evals.errors import EvalError
from evals.locks import locked
from evals.measurement import Measurement, key_of

IGNORE_ALL = "*\n"


class NotStoredError(EvalError):
    """Something that a frozen store does not hold."""


class Store:
    """A folder ``root`` with ``measurements/``, ``candidates/`` and ``locks/``.

    Attributes:
        frozen: nothing is made; what is not there yet raises :class:`NotStoredError`.

    Raises:
        EvalError: it cannot be made or written to.
    """

    def __init__(self, root: Path, frozen: bool = False):
        self.root = Path(root)
        self.frozen = frozen
        try:
            for room in ("measurements", "candidates", "locks"):
                (self.root / room).mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                ignore.write_text(IGNORE_ALL)
        except OSError as error:
            raise EvalError(f"--store {root}: {error.strerror}") from error

    def _check_frozen(self, key: str) -> None:
        if self.frozen:
            raise NotStoredError(f"{key} is not stored in {self.root}")

    def lock_path(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    def beside(self, origin: Mapping[str, object], name: str) -> Path:
        """Where a measurement's larger part goes, such as a table of log-probabilities."""
        return self.root / "measurements" / f"{key_of(origin)}.{name}"

    def measurement(
        self,
        origin: Mapping[str, object],
        make: Callable[[], Mapping],
        keep: Callable[[Mapping], bool] | None = None,
    ) -> Measurement:
        """The measurement of ``origin``; ``make`` gives its arrays if it is not stored yet.

        Arrays that ``keep`` returns False for are not stored, and are made again next time.
        """
        key = key_of(origin)
        path = self.root / "measurements" / f"{key}.npz"
        if not path.exists():
            self._check_frozen(key)
            with locked(self.lock_path(key)):
                if not path.exists():
                    made = make()
                    if keep is not None and not keep(made):
                        return Measurement(made, origin)
                    try:
                        Measurement(made, origin).write(path)
                    except OSError as error:
                        raise EvalError(f"--store {self.root}: {error.strerror}") from error
        try:
            return Measurement.read(path)
        except (ValueError, KeyError, EOFError, BadZipFile) as error:
            raise EvalError(f"{path} is damaged; delete it to have it measured again") from error

    def folder(self, origin: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The folder of ``origin``; ``make`` fills one at a temporary path if there is none."""
        key = key_of(origin)
        path = self.root / "candidates" / key
        if not path.exists():
            self._check_frozen(key)
            with locked(self.lock_path(key)):
                if not path.exists():
                    partial = path.with_name(f"{key}.partial")
                    shutil.rmtree(partial, ignore_errors=True)
                    make(partial)
                    partial.rename(path)
        return path
