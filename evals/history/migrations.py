"""The schema of the database of runs, its versions, and the checks of a file before it is used.

The version is SQLite's ``user_version``. A file of an older version is migrated when it is opened,
in one transaction; a file of a newer version is refused.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from compression_gates.evals.data.paths import is_stream
from compression_gates.evals.errors import EvalError, first_line

APPLICATION_ID = 0x43474854
"""SQLite's ``application_id`` of these files: the letters CGHT."""
BUSY_TIMEOUT = 60.0
"""Seconds for which a writer waits for another one."""
READ_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""Exceptions that the library raises for a damaged file."""
_HEADER = b"SQLite format 3\0"
MIGRATIONS = (
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, commit_hash TEXT NOT NULL,
        branch TEXT NOT NULL, machine TEXT NOT NULL, device TEXT NOT NULL, python TEXT NOT NULL,
        torch TEXT NOT NULL, transformers TEXT NOT NULL, package TEXT NOT NULL,
        policy TEXT NOT NULL, profile TEXT NOT NULL, profile_digest TEXT NOT NULL,
        exit_status INTEGER NOT NULL
    );
    CREATE TABLE item_values (digest TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE cases (
        run INTEGER NOT NULL REFERENCES runs (id), position INTEGER NOT NULL,
        baseline_name TEXT NOT NULL, candidate TEXT NOT NULL, metric TEXT NOT NULL,
        gate_limit REAL, value REAL, low REAL, high REAL, confidence REAL,
        n INTEGER NOT NULL, clusters INTEGER NOT NULL, outcome TEXT NOT NULL,
        unreliable TEXT NOT NULL, reason TEXT NOT NULL, passed INTEGER NOT NULL,
        known_failure TEXT NOT NULL, baseline REAL, origin TEXT NOT NULL,
        items TEXT REFERENCES item_values (digest),
        PRIMARY KEY (run, position)
    ) WITHOUT ROWID;
    CREATE INDEX cases_of_a_gate ON cases (candidate, metric, run);
    CREATE TABLE acceptances (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL REFERENCES runs (id),
        time TEXT NOT NULL, forced INTEGER NOT NULL, reason TEXT NOT NULL
    );
    """,
    """
    ALTER TABLE runs ADD COLUMN decision TEXT NOT NULL DEFAULT '';
    ALTER TABLE runs ADD COLUMN manifest TEXT NOT NULL DEFAULT '{}';
    """,
)
"""The statements that lead from each version to the next one; a new file gets all of them."""
VERSION = len(MIGRATIONS)


def open_database(path: Path, create: bool = True, read_only: bool = False) -> sqlite3.Connection:
    """Open the database of runs, create it if there is none, and migrate an older version.

    The journal is a write-ahead log, so a process that is killed while it writes leaves the file as
    it was, and readers do not wait for writers.

    Args:
        path: the file.
        create: whether to create the file, and its folder, if it does not exist.
        read_only: whether it is only read, so that neither the file nor its folder needs to be
            writable. A file of an older version is copied into memory and migrated there.

    Raises:
        EvalError: the file cannot be read or written, is damaged, belongs to another program, or
            was written by a newer version.
    """
    path = Path(path)
    try:
        is_new = _is_new(path, create and not read_only)
        if is_new and not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect_to_read(path) if read_only else _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise EvalError(f"history {path}: {_reason(error)}") from error
    try:
        if read_only:
            return _prepared_to_read(connection, path)
        _prepare(connection, path)
    except READ_ERRORS as error:
        connection.close()
        # An operational error is not about the content: no permission, no space, or a lock.
        is_damaged = not isinstance(error, sqlite3.OperationalError)
        advice = "; restore the file from a copy, or name another one" if is_damaged else ""
        raise EvalError(f"history {path}: {_reason(error)}{advice}") from error
    except EvalError:
        connection.close()
        raise
    return connection


def _connect(path: Path | str, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, uri=uri)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a file for reading, also one that cannot be written to.

    The files of a write-ahead log cannot be created in a folder that is not writable, and those
    that a reader creates are removed only by a connection that may write. Therefore a file that
    cannot be written to is opened as one that nobody changes, unless a log exists.
    """
    log = path.with_name(f"{path.name}-wal")
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        mode = "rw"
    elif log.exists() and log.stat().st_size:
        mode = "ro"
    else:
        mode = "ro&immutable=1"
    return _connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)


def _prepared_to_read(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """Check the content of a file that is open for reading, and return a connection to its tables
    in the current version."""
    _check_owner(connection, path)
    version = _checked_version(connection, path)
    if version < VERSION:
        file, connection = connection, _connect(":memory:")
        with closing(file):
            file.backup(connection)
        _prepare(connection, path)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA query_only = ON")
    return connection


def _is_new(path: Path, create: bool) -> bool:
    """Return whether a file has to be created.

    Raises:
        EvalError: the file is not a database, or does not exist and may not be created.
        OSError: it cannot be read.
    """
    if is_stream(path) or path.is_dir():
        raise EvalError(f"history {path}: not a regular file; give the name of a file")
    if not path.exists():
        if not create:
            raise EvalError(
                f"history {path}: no such file; the first run that is stored creates it"
            )
        return True
    with path.open("rb") as stream:
        header = stream.read(len(_HEADER))
    if header not in (b"", _HEADER):
        raise EvalError(f"history {path}: not a database of runs; name another file")
    return not header


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check the content of an open file, and create or migrate its tables."""
    _check_owner(connection, path)  # before anything is written
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")  # also proves that the file can be written to
    try:
        _migrate(connection, path)
    except BaseException:
        roll_back(connection)
        raise
    connection.execute("COMMIT")


def roll_back(connection: sqlite3.Connection) -> None:
    """Roll a transaction back, unless the library has done so, as it does when the disk is full."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application or version or tables) and application != APPLICATION_ID:
        raise EvalError(f"history {path}: the database of another program; name another file")


def _checked_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema, after a check of the content."""
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise EvalError(
            f"history {path}: has schema version {version}, but this version of compression-gates "
            f"reads up to {VERSION}; upgrade it"
        )
    [problem] = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if problem != "ok":
        raise sqlite3.DatabaseError(f"damaged ({problem.splitlines()[-1]})")
    return version


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = _checked_version(connection, path)
    for number in range(version, VERSION):
        for statement in filter(str.strip, MIGRATIONS[number].split(";")):
            connection.execute(statement)
    # A pragma takes no parameters; both numbers are constants of this module.
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    return first_line(error)
