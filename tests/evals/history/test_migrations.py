"""Opening, creating and migrating the file of a history."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.history.database import History
from compression_gates.evals.history.migrations import (
    APPLICATION_ID,
    MIGRATIONS,
    VERSION,
    open_database,
)
from tests.evals.history.small import case_of, run_at


def of_version(path, version: int) -> sqlite3.Connection:
    """A file as that version of the schema wrote it."""
    connection = sqlite3.connect(path)
    for script in MIGRATIONS[:version]:
        connection.executescript(script)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    return connection


def test_a_new_file_has_the_current_version(tmp_path):
    connection = open_database(tmp_path / "new" / "history.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_of_the_first_version_is_migrated_with_its_runs(tmp_path):
    path = tmp_path / "old.db"
    with of_version(path, 1) as old:
        old.execute(
            "INSERT INTO runs VALUES (7, '2026-01-01T00:00:00Z', 'abc', 'main', 'cpu', 'cpu', '3',"
            " '2', '5', '0.1', 'default', 'nightly', 'digest', 0)"
        )
    old.close()
    for _ in range(2):  # the second time there is nothing to migrate
        with History(path) as history:
            [run] = history.runs()
            assert (run.id, run.commit, run.decision, run.manifest) == (7, "abc", "", {})
    with History(path) as history:
        assert history.append(run_at(1, decision="release"), [case_of([0, 1, 0])]) == 8
        assert history.run(8).decision == "release"


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "old.db"
    of_version(path, 1).close()
    broken = (MIGRATIONS[0], "ALTER TABLE runs ADD COLUMN x TEXT; ALTER TABLE none ADD COLUMN y")
    monkeypatch.setattr("compression_gates.evals.history.migrations.MIGRATIONS", broken)
    with pytest.raises(EvalError, match="no such table"):
        History(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
    assert "x" not in columns


def test_a_newer_version_is_refused(tmp_path):
    of_version(tmp_path / "new.db", VERSION).close()
    connection = sqlite3.connect(tmp_path / "new.db")
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(EvalError, match=rf"schema version {VERSION + 1}, .* upgrade it"):
        History(tmp_path / "new.db")


def test_files_of_others_are_refused_and_not_changed(tmp_path):
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    (tmp_path / "text.db").write_text("not a database at all")
    for name, message in (("other.db", "of another program"), ("text.db", "not a database")):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(EvalError, match=message):
            History(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_damaged_files_are_refused(tmp_path):
    with History(tmp_path / "whole.db") as history:
        for day in range(1, 20):
            history.append(run_at(day), [case_of([0, 1] * 200, f"m{day}") for _ in range(3)])
    whole = (tmp_path / "whole.db").read_bytes()
    cut, zeros = whole[: len(whole) // 2], bytearray(whole)
    zeros[4096 : 4096 * 4] = bytes(4096 * 3)
    for name, content in (("cut.db", cut), ("zeros.db", bytes(zeros))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EvalError, match=rf"history .*{name}: .*; restore the file from a copy"):
            History(tmp_path / name)


@pytest.mark.parametrize("kind", ["folder", "missing", "in a file"])
def test_what_is_no_file_is_one_error(tmp_path, kind):
    path = {"folder": tmp_path, "missing": tmp_path / "none", "in a file": tmp_path / "a" / "b"}[
        kind
    ]
    (tmp_path / "a").write_text("a file")
    with pytest.raises(EvalError, match=r"^history "):
        History(path, create=kind == "in a file")


def test_a_copy_of_an_open_history_is_complete(tmp_path):
    with History(tmp_path / "history.db") as history:
        history.append(run_at(1), [])
    shutil.copy(tmp_path / "history.db", tmp_path / "copy.db")
    with History(tmp_path / "copy.db") as copy:
        assert len(copy.runs()) == 1


@contextmanager
def as_another_user():
    """Drop the rights of root, who may write to every file. Nothing may be imported meanwhile."""
    is_root = hasattr(os, "setresuid") and os.getuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.parametrize("folder_mode", [0o777, 0o555])
def test_a_file_that_cannot_be_written_to_is_read(folder_mode):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        with History(path) as history:
            history.append(run_at(1), [case_of([0, 1])])
        path.chmod(0o444)
        Path(folder).chmod(folder_mode)
        with as_another_user():
            with History(path, create=False, read_only=True) as history:
                assert len(history.runs()) == 1
                assert len(history.cases(1)) == 1
            assert os.listdir(folder) == ["history.db"]
            with pytest.raises(EvalError, match="readonly"):
                History(path)


def test_reading_needs_no_lock_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("compression_gates.evals.history.migrations.BUSY_TIMEOUT", 0.1)
    path = tmp_path / "history.db"
    with History(path) as history:
        history.append(run_at(1), [])
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with History(path, read_only=True) as reader:
            assert len(reader.runs()) == 1
            with pytest.raises(EvalError, match="readonly"):
                reader.append(run_at(2), [])
        writer.close()
    with History(path, read_only=True) as reader:
        assert len(reader.runs()) == 1
    assert os.listdir(tmp_path) == ["history.db"]


def test_a_file_of_an_older_version_is_read_without_a_change(tmp_path):
    path = tmp_path / "old.db"
    with of_version(path, 1) as old:
        old.execute(
            "INSERT INTO runs VALUES (7, '2026-01-01T00:00:00Z', 'abc', 'main', 'cpu', 'cpu', '3',"
            " '2', '5', '0.1', 'default', 'nightly', 'digest', 0)"
        )
    old.close()
    before = path.read_bytes()
    with History(path, read_only=True) as history:
        assert [run.id for run in history.runs()] == [7]
    assert path.read_bytes() == before


def test_what_cannot_be_read_is_one_error_when_it_is_only_read(tmp_path):
    with pytest.raises(EvalError, match="no such file"):
        History(tmp_path / "none.db", read_only=True)
    with History(tmp_path / "whole.db") as history:
        for day in range(1, 20):
            history.append(run_at(day), [case_of([0, 1] * 200, f"m{day}") for _ in range(3)])
    (tmp_path / "cut.db").write_bytes((tmp_path / "whole.db").read_bytes()[:40_000])
    with pytest.raises(EvalError, match=r"cut.db: .*; restore the file from a copy"):
        History(tmp_path / "cut.db", read_only=True)
    of_version(tmp_path / "new.db", VERSION).close()
    connection = sqlite3.connect(tmp_path / "new.db")
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(EvalError, match="upgrade it"):
        History(tmp_path / "new.db", read_only=True)
