"""The report of an earlier run, for comparison with a later one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import Verdict
from compression_gates.evals.report.report_rows import REPORT, StoredReport, read_report
from compression_gates.evals.statistics.item_values import FILE, ItemValues, Key

_ADVICE = "; delete the damaged report"


@dataclass(frozen=True)
class Record:
    """The verdict on a gate in one run, reduced to what a comparison needs.

    Attributes:
        candidate, metric, limit, value, low, high, confidence, n, outcome, unreliable: as in
            :class:`evals.gates.gate.Verdict`; numbers that are missing in a report are NaN.
        origin: digests of what it was measured on, as far as they are known: of the ``baseline``,
            and for timings of the ``data`` and the ``machine``.
        items: the per-item values; None if they were not stored.
        runs: number of runs of which it is the mean.
    """

    candidate: str
    metric: str
    limit: float
    value: float
    low: float
    high: float
    confidence: float
    n: int
    outcome: str = ""
    unreliable: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    items: ItemValues | None = field(default=None, compare=False, repr=False)
    runs: int = 1

    @classmethod
    def of(
        cls,
        verdict: Verdict | Mapping,
        origin: Mapping[str, str] | None = None,
        items: ItemValues | None = None,
    ) -> "Record":
        """Return the record of a verdict, or of its JSON object in a report, where NaN is null.

        Raises:
            KeyError, TypeError, ValueError: the object is not a verdict.
        """
        fields = vars(verdict) if isinstance(verdict, Verdict) else verdict
        numbers = {
            name: math.nan if fields.get(name) is None else float(_checked(Real, fields[name]))
            for name in ("limit", "value", "low", "high", "confidence")
        }
        is_outside = numbers["confidence"] <= 0 or numbers["confidence"] >= 1
        if is_outside or numbers["low"] > numbers["high"]:
            raise ValueError("no interval")
        return cls(
            candidate=_checked(str, fields["candidate"]),
            metric=_checked(str, fields["metric"]),
            n=int(_checked(Integral, fields["n"])),
            outcome=str(fields.get("outcome", "")),
            unreliable=str(fields.get("unreliable") or ""),
            origin=dict(origin or {}),
            items=items,
            **numbers,
        )

    @property
    def key(self) -> Key:
        return self.candidate, self.metric

    @property
    def is_error(self) -> bool:
        """Whether nothing was measured because the case ended in an error."""
        return self.n < 1

    @property
    def standard_error(self) -> float:
        """Standard error implied by the interval: 0 for an exact number, infinite for an unbounded
        interval."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return math.inf
        if self.low == self.high:
            return 0.0
        from scipy.stats import norm

        return (self.high - self.low) / (2 * float(norm.ppf(0.5 + self.confidence / 2)))


def _checked(kind: type, value: object) -> Any:
    """Return ``value``, or raise a TypeError if it is not of the given type."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(value)
    return value


@dataclass(frozen=True)
class EarlierRun:
    """The records of an earlier run.

    Attributes:
        records: by candidate and metric.
        note: a remark for the summary, or an empty string.
    """

    records: Mapping[Key, Record]
    note: str = ""


def read_earlier_run(directory: Path) -> EarlierRun:
    """Read the report in a folder; there are no records if there is no report yet.

    Raises:
        EvalError: the report is damaged or cannot be read.
    """
    file = directory / REPORT
    if directory.exists() and not directory.is_dir():
        raise EvalError(f"earlier report {directory}: not a folder; give the folder of a report")
    if not file.exists():
        note = f"no earlier report in {directory}, so there is nothing to compare with"
        return EarlierRun({}, note)
    report = read_report(directory, "earlier report", _ADVICE)
    note = ""
    if report.ignored_items:
        note = f"{directory / FILE} belongs to another report, so it is ignored"
    records = {record.key: record for record in _records(file, report)}
    if not records:
        note = f"the report in {directory} has no verdicts, so there is nothing to compare with"
    return EarlierRun(records, note)


def _records(file: Path, report: StoredReport) -> list[Record]:
    records = []
    for number, row in enumerate(report.rows, 1):
        try:
            if row.get("verdict") is not None:
                record = Record.of(row["verdict"], row.get("origin"))
                records.append(replace(record, items=report.items.get(record.key)))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
                ValueError) as error:  # fmt: skip
            raise EvalError(
                f"earlier report {file}: line {number} is not a verdict{_ADVICE}"
            ) from error
    return records
