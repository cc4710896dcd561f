"""Reading of the rows of ``report.jsonl``, from which a page and its figures can be made again."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import Verdict
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.regressions import Regression
from compression_gates.evals.metrics.weighted_score import PARTS
from compression_gates.evals.report.report import Entry
from compression_gates.evals.report.schema import check_version
from compression_gates.evals.statistics.item_values import (
    FILE,
    ItemValues,
    Key,
    digest_of,
    unpack,
)

REPORT = "report.jsonl"
Row = Mapping[str, object]
_NUMBERS = ("limit", "value", "low", "high", "confidence", "baseline", "measured", "p")
"""Fields of a verdict in which null stands for NaN."""


def read_rows(directory: Path) -> list[dict[str, object]]:
    """Return the rows of the ``report.jsonl`` in a folder.

    Raises:
        EvalError: the file cannot be read, or a line is not a JSON object.
    """
    file = directory / REPORT
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise EvalError(f"report {file}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (RecursionError, ValueError) as error:
            raise EvalError(f"report {file}: line {number} is not JSON") from error
        if not isinstance(row, dict):
            raise EvalError(f"report {file}: line {number} is not a JSON object")
        check_version(row, file)
        rows.append(row)
    return rows


def read_items(directory: Path) -> dict[Key, ItemValues]:
    """Return the per-item values beside a report; none if they are missing or of another report.

    Raises:
        EvalError: the file cannot be read or is damaged.
    """
    file = directory / FILE
    if not file.exists():
        return {}
    try:
        packed, report = file.read_bytes(), (directory / REPORT).read_bytes()
    except OSError as error:
        raise EvalError(f"report {directory}: {error.strerror}") from error
    values, run = unpack(packed, f"report {directory}: {FILE}")
    return values if run == digest_of(report) else {}


def entries_of(rows: Iterable[Row]) -> list[Entry]:
    """Return the entries of the rows that hold a verdict.

    Raises:
        EvalError: a row is not an entry, or its metric is not registered.
    """
    return [_entry(row) for row in rows if row.get("verdict") is not None]


def first(rows: Iterable[Row], key: str) -> object:
    """Return the value of ``key`` in the first row that has it; None if no row has it."""
    return next((row[key] for row in rows if row.get(key) is not None), None)


def weights_of(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return the weights of the ranking by baseline, as far as the profile has them.

    Raises:
        EvalError: a row has other weights than those of the ranking.
    """
    weights = {}
    for row in rows:
        if row.get("weights") is None:
            continue
        try:
            parts = {part: float(row["weights"][part]) for part in PARTS}
        except (KeyError, TypeError, ValueError) as error:
            raise EvalError(f"weights in a report: {row['weights']!r} is not usable") from error
        weights[str(row.get("group"))] = parts
    return weights


def _entry(row: Row) -> Entry:
    try:
        verdict = Verdict(**_known(Verdict, _with_nan(row["verdict"], _NUMBERS)))
        values = _known(Entry, row) | {"verdict": verdict}
        values["evidence"] = tuple(map(str, row.get("evidence", ())))
        values["facts"] = _with_nan(row.get("facts", {}), tuple(row.get("facts", {})))
        values["regressions"] = tuple(
            Regression(**_known(Regression, _with_nan(item, ("loss",))))
            for item in row.get("regressions", ())
        )
        entry = Entry(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EvalError(f"a row of the report is not a verdict: {error}") from error
    if verdict.metric not in METRICS:
        raise EvalError(f"metric {verdict.metric} is not registered; import its module first")
    return entry


def _known(kind: type, values: Row) -> dict[str, object]:
    """Return those of ``values`` that are fields of a dataclass; a later version may write more."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def _with_nan(values: Row, names: Iterable[str]) -> dict[str, object]:
    """Return ``values`` with the numbers ``names`` as floats, NaN in place of null."""
    numbers = {
        name: math.nan if values[name] is None else float(values[name])
        for name in names
        if name in values
    }
    return dict(values) | numbers
