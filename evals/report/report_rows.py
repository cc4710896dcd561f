"""Reading of the rows of ``report.jsonl``, from which a page and its figures can be made again."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from compression_gates.evals.data.paths import is_stream
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


@dataclass(frozen=True)
class StoredReport:
    """What the files of a report contain.

    Attributes:
        rows: of ``report.jsonl``, one per line.
        items: per-item values by candidate and metric.
        ignored_items: whether there are per-item values of another report, which a run leaves that
            is killed while it writes its report.
    """

    rows: Sequence[dict[str, object]]
    items: Mapping[Key, ItemValues]
    ignored_items: bool = False


def read_report(directory: Path, name: str = "report", advice: str = "") -> StoredReport:
    """Return what the files of the report in a folder contain.

    Args:
        directory: of the report.
        name: of the report, for error messages.
        advice: what to do about a damaged line, for error messages.

    Raises:
        EvalError: a file cannot be read or is damaged.
    """
    content = read_file(directory / REPORT, name)
    rows = parsed_rows(content, f"{name} {directory / REPORT}", advice)
    if not (directory / FILE).exists():
        return StoredReport(rows, {})
    values, run = unpack(read_file(directory / FILE, name), f"{name} {directory}: {FILE}")
    if run != digest_of(content):
        return StoredReport(rows, {}, ignored_items=True)
    return StoredReport(rows, values)


def read_file(file: Path, name: str) -> bytes:
    """Return the content of a file of the report ``name``.

    Raises:
        EvalError: it cannot be read, or is not a regular file.
    """
    if is_stream(file):
        raise EvalError(f"{name} {file}: not a regular file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise EvalError(f"{name} {file}: {error.strerror}") from error


def parsed_rows(content: bytes, name: str, advice: str = "") -> list[dict[str, object]]:
    """Return the rows of the content of a ``report.jsonl``, one per line.

    Args:
        content: of the file.
        name, advice: of the file, and what to do about a damaged line, for error messages.

    Raises:
        EvalError: a line is not a JSON object, or a later version has written the file.
    """
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
        except (RecursionError, ValueError) as error:
            raise EvalError(f"{name}: line {number} is not JSON{advice}") from error
        if not isinstance(row, dict):
            raise EvalError(f"{name}: line {number} is not a JSON object{advice}")
        check_version(row, name)
        rows.append(row)
    return rows


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
        verdict = Verdict(**known_fields(Verdict, with_nan(row["verdict"], _NUMBERS)))
        values = known_fields(Entry, row) | {"verdict": verdict}
        values["evidence"] = tuple(map(str, row.get("evidence", ())))
        values["facts"] = with_nan(row.get("facts", {}), tuple(row.get("facts", {})))
        values["regressions"] = tuple(
            Regression(**known_fields(Regression, with_nan(item, ("loss",))))
            for item in row.get("regressions", ())
        )
        entry = Entry(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EvalError(f"a row of the report is not a verdict: {error}") from error
    if verdict.metric not in METRICS:
        raise EvalError(f"metric {verdict.metric} is not registered; import its module first")
    return entry


def known_fields(kind: type, values: Row) -> dict[str, object]:
    """Return those of ``values`` that are fields of a dataclass; a later version may write more."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def with_nan(values: Row, names: Iterable[str]) -> dict[str, object]:
    """Return ``values`` with the numbers ``names`` as floats, NaN in place of null."""
    numbers = {
        name: math.nan if values[name] is None else float(values[name])
        for name in names
        if name in values
    }
    return dict(values) | numbers
