"""The history of runs in a database file: appended to, read, and never changed."""

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any

from compression_gates.evals.errors import EvalError, first_line
from compression_gates.evals.foreign_text import valid_unicode
from compression_gates.evals.history.migrations import READ_ERRORS, open_database, roll_back
from compression_gates.evals.history.runs import Acceptance, StoredCase, StoredRun
from compression_gates.evals.statistics.item_values import ItemValues, Key, pack, unpack

_NOT_COLUMNS = ("id", "acceptance")
_RUN_FIELDS = tuple(field.name for field in fields(StoredRun) if field.name not in _NOT_COLUMNS)
_CASE_FIELDS = tuple(field.name for field in fields(StoredCase))
_CASE_KINDS = {field.name: field.type for field in fields(StoredCase)}
_COLUMNS = {"commit": "commit_hash", "limit": "gate_limit"}
"""Names of columns that differ from the attribute, because they are words of SQL."""


def _columns(names: Iterable[str]) -> str:
    return ", ".join(_COLUMNS.get(name, name) for name in names)


class RedRunError(EvalError):
    """A red run cannot be accepted as a reference without force and a reason."""


class History:
    """The runs in a file, which several processes may read and append to at the same time.

    Args:
        path: the file; see :func:`evals.history.migrations.open_database`.
        create: whether to create it if it does not exist.
        read_only: whether it is only read, for which the file need not be writable.

    Raises:
        EvalError: the file cannot be used. Every method raises it if the file is damaged.
    """

    def __init__(self, path: Path, create: bool = True, read_only: bool = False):
        self.path = Path(path)
        self._connection = open_database(self.path, create, read_only)

    def __enter__(self) -> "History":
        return self

    def __exit__(self, *_) -> None:
        self._connection.close()

    def append(self, run: StoredRun, cases: Iterable[StoredCase]) -> int:
        """Append a run and its cases in one transaction, and return the number of the run.

        Equal per-item values of several runs are stored once.
        """
        with self._transaction() as connection:
            values = {name: getattr(run, name) for name in _RUN_FIELDS}
            values["manifest"] = json.dumps(values["manifest"], default=str)
            row = [valid_unicode(v) if isinstance(v, str) else v for v in values.values()]
            number = _insert(connection, "runs", _columns(values), row).lastrowid
            for position, case in enumerate(cases):
                values = {name: getattr(case, name) for name in _CASE_FIELDS}
                values["origin"] = json.dumps(dict(case.origin))
                values["items"] = self._store_items(connection, case)
                columns = f"run, position, {_columns(values)}"
                _insert(connection, "cases", columns, [number, position, *values.values()])
            return number

    @staticmethod
    def _store_items(connection: sqlite3.Connection, case: StoredCase) -> str | None:
        if case.items is None:
            return None
        content = pack({("", ""): case.items})
        digest = hashlib.sha256(content).hexdigest()
        connection.execute(
            "INSERT OR IGNORE INTO item_values (digest, content) VALUES (?, ?)", (digest, content)
        )
        return digest

    def accept(self, number: int, time: str, reason: str = "", forced: bool = False) -> None:
        """Make a run the reference of later runs. Earlier acceptances are kept.

        Args:
            number: of the run.
            time: ISO 8601, UTC.
            reason: why; needed if the run is red.
            forced: whether a red run may be accepted.

        Raises:
            RedRunError: it is red, and ``forced`` or ``reason`` is missing.
            EvalError: there is no such run.
        """
        run = self.run(number)
        if not run.is_green and not (forced and reason.strip()):
            raise RedRunError(
                f"history {self.path}: run {number} is red (exit status {run.exit_status}), so it "
                "can be accepted as the reference only by force and with a reason"
            )
        with self._transaction() as connection:
            row = [number, time, int(not run.is_green), valid_unicode(reason)]
            _insert(connection, "acceptances", "run, time, forced, reason", row)

    def runs(self, profile: str | None = None) -> list[StoredRun]:
        """Return all runs, or those of one profile, the oldest first."""
        accepted = {
            run: Acceptance(str(time), bool(forced), str(reason))
            for run, time, forced, reason in self._rows(
                "SELECT run, time, forced, reason FROM acceptances ORDER BY id"
            )
        }
        rows = self._rows(f"SELECT id, {_columns(_RUN_FIELDS)} FROM runs ORDER BY id")
        runs = [self._checked(lambda row=row: _run_of(row, accepted)) for row in rows]
        return [run for run in runs if profile is None or run.profile == profile]

    def run(self, number: int) -> StoredRun:
        """Return a run by its number.

        Raises:
            EvalError: there is no such run.
        """
        for run in self.runs():
            if run.id == number:
                return run
        raise EvalError(f"history {self.path}: there is no run {number}")

    def reference(self, profile: str) -> StoredRun | None:
        """Return the run of a profile that was accepted last; if none was, the first run."""
        runs = {run.id: run for run in self.runs(profile)}
        accepted = self._rows("SELECT run FROM acceptances ORDER BY id DESC")
        latest = [runs[number] for (number,) in accepted if number in runs]
        return next(iter([*latest, *runs.values()]), None)

    def cases(self, number: int) -> list[StoredCase]:
        """Return the cases of a run, without their per-item values."""
        query = f"SELECT {_columns(_CASE_FIELDS)} FROM cases WHERE run = ? ORDER BY position"
        rows = self._rows(query, (number,))
        return [self._checked(lambda row=row: _case_of(row, None)) for row in rows]

    def gate(
        self, key: Key, runs: Sequence[int] | None = None, items: bool = False
    ) -> dict[int, StoredCase]:
        """Return the cases of one gate by the number of the run, the oldest first.

        Args:
            key: candidate and metric.
            runs: numbers of the runs; default: all.
            items: whether to read the per-item values.
        """
        columns = ", ".join(f"cases.{_COLUMNS.get(name, name)}" for name in _CASE_FIELDS)
        content = "item_values.content" if items else "NULL"
        chosen = "" if runs is None else f"AND cases.run IN ({', '.join('?' * len(runs))}) "
        rows = self._rows(
            f"SELECT cases.run, {content}, {columns} FROM cases "
            "LEFT JOIN item_values ON item_values.digest = cases.items "
            f"WHERE candidate = ? AND metric = ? {chosen}ORDER BY cases.run",
            (*map(valid_unicode, key), *(runs or ())),
        )
        unpacked = cache(_items_of)  # runs that are repeated exactly share their values
        return {
            number: self._checked(lambda row=row, content=content: _case_of(row, unpacked(content)))
            for number, content, *row in rows
        }

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors_named():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                roll_back(self._connection)
                raise
            self._connection.execute("COMMIT")

    def _rows(self, query: str, values: Iterable[object] = ()) -> list[tuple]:
        with self._errors_named():
            return self._connection.execute(query, tuple(values)).fetchall()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except READ_ERRORS as error:
            raise EvalError(f"history {self.path}: {first_line(error)}") from error

    def _checked(self, read: Callable[[], Any]) -> Any:
        """Return what ``read`` returns, and turn the errors of invalid values into an EvalError."""
        try:
            return read()
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
                ValueError) as error:  # fmt: skip
            raise EvalError(
                f"history {self.path}: a row is damaged ({first_line(error)}); restore the file "
                "from a copy, or name another one"
            ) from error


def _insert(
    connection: sqlite3.Connection, table: str, columns: str, row: list[object]
) -> sqlite3.Cursor:
    places = ", ".join("?" * len(row))
    return connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)


def _run_of(row: tuple, accepted: Mapping[int, Acceptance]) -> StoredRun:
    number, *values = row
    stored = dict(zip(_RUN_FIELDS, values, strict=True))
    exit_status = _of_kind(int, stored.pop("exit_status"))
    manifest = json.loads(stored.pop("manifest"))
    if not isinstance(manifest, dict):
        raise TypeError("the manifest is not an object")
    texts = {name: _of_kind(str, value) for name, value in stored.items()}
    return StoredRun(
        **texts, exit_status=exit_status, manifest=manifest, id=number,
        acceptance=accepted.get(number),
    )  # fmt: skip


def _case_of(row: Iterable[object], items: ItemValues | None) -> StoredCase:
    stored = dict(zip(_CASE_FIELDS, row, strict=True))
    kinds = _CASE_KINDS
    values: dict[str, object] = {}
    for name, value in stored.items():
        if kinds[name] is float:
            values[name] = math.nan if value is None else float(_of_kind(int | float, value))
        elif kinds[name] is bool:
            values[name] = bool(_of_kind(int, value))
        elif kinds[name] in (int, str):
            values[name] = _of_kind(kinds[name], value)
    origin = {str(part): str(digest) for part, digest in json.loads(stored["origin"]).items()}
    return StoredCase(**values, origin=origin, items=items)


def _of_kind(kind: type | UnionType, value: object) -> Any:
    """Return ``value``, or raise a TypeError if it is not of the given type."""
    if not isinstance(value, kind):
        raise TypeError(f"a value is of type {type(value).__name__}")
    return value


def _items_of(content: bytes | None) -> ItemValues | None:
    if content is None:
        return None
    values, _ = unpack(content, "the history")
    return values["", ""]
