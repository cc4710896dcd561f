"""Damaged and forged histories."""

import sqlite3
from pathlib import Path
from random import Random

from compression_gates.evals.history.database import History
from compression_gates.evals.history.listing import export, show, table_of_runs
from compression_gates.evals.history.what_changed import what_changed
from tests.evals.history.small import case_of, run_at, size_of
from tests.fuzz.mutations import mutated_bytes

COLUMNS = {
    "runs": ("time", "commit_hash", "profile", "exit_status", "manifest"),
    "cases": ("candidate", "metric", "gate_limit", "value", "low", "high", "confidence", "n",
              "outcome", "baseline", "origin"),
    "item_values": ("content",),
    "acceptances": ("run", "forced", "reason"),
}  # fmt: skip
VALUES = (
    None,
    0,
    -1,
    1 << 62,
    1e300,
    float("inf"),
    "",
    "text",
    "1e999",
    "\x1b[31m",
    b"PK\3\4",
    "[]",
)


class Histories:
    """Reads and compares with other histories than the one that was written."""

    def __init__(self, folder: Path):
        self.file = folder / "history.db"
        with History(self.file) as history:
            for day in range(1, 9):
                history.append(run_at(day), self.cases(day))
            history.accept(1, "2026-11-09T00:00:00Z")
        self.whole = self.file.read_bytes()

    @staticmethod
    def cases(day: int) -> list:
        values = [(number * day) % 7 == 0 for number in range(60)]
        return [case_of(values), case_of(values, metric="js_divergence"), size_of(1 + 1 / day)]

    def __call__(self, rng: Random) -> None:
        for name in ("-wal", "-shm"):
            Path(f"{self.file}{name}").unlink(missing_ok=True)
        if rng.random() < 0.5:
            self.file.write_bytes(mutated_bytes(rng, self.whole))
        else:
            self.file.write_bytes(self.whole)
            self.forge(rng)
        with History(self.file) as history:
            result = what_changed(run_at(9), self.cases(9), history)
            assert all(isinstance(line, str) for line in result.lines())
            list(result.rows())
            for text in (table_of_runs(history, 100), show(history, "latest", 100),
                         show(history, "model", 100), export(history, "csv")):  # fmt: skip
                assert "\x1b" not in text

    def forge(self, rng: Random) -> None:
        database = sqlite3.connect(self.file)
        table = rng.choice(list(COLUMNS))
        column = rng.choice(COLUMNS[table])
        try:
            database.execute(
                f"UPDATE OR IGNORE {table} SET {column} = ? WHERE random() % 3 = 0",
                (rng.choice(VALUES),),
            )
            database.commit()
        except sqlite3.Error:  # a constraint of the schema
            database.rollback()
        database.close()


def test_histories(each, tmp_path):
    each(100, Histories, tmp_path, share=0.2)
