"""An earlier report, as far as a later run is compared with it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from compression_gates.evals.data.paths import is_stream
from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import Verdict
from compression_gates.evals.statistics.item_values import FILE, ItemValues, Key, digest_of, unpack

REPORT = "report.jsonl"


@dataclass(frozen=True)
class Record:
    """A gate of one run, as far as a later run is compared with it.

    Attributes:
        candidate, metric, limit, value, low, high, confidence, n, outcome, unreliable: as in
            :class:`evals.gates.gate.Verdict`; numbers that a report does not hold are NaN.
        origin: what it was measured on, as far as it is known: the digest of the ``baseline``, and
            for timings that of the ``data`` and the ``machine``.
        items: the values of each item, or None.
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

    @classmethod
    def of(
        cls,
        verdict: Verdict | Mapping,
        origin: Mapping[str, str] | None = None,
        items: ItemValues | None = None,
    ) -> "Record":
        """The record of a verdict, or of one as a report holds it, with null for what is NaN.

        Raises:
            KeyError, TypeError, ValueError: it is not a verdict.
        """
        found = vars(verdict) if isinstance(verdict, Verdict) else verdict
        numbers = {
            name: math.nan if found.get(name) is None else float(_of(Real, found[name]))
            for name in ("limit", "value", "low", "high", "confidence")
        }
        outside = numbers["confidence"] <= 0 or numbers["confidence"] >= 1
        if outside or numbers["low"] > numbers["high"]:
            raise ValueError("no interval")
        return cls(
            candidate=_of(str, found["candidate"]),
            metric=_of(str, found["metric"]),
            n=int(_of(Integral, found["n"])),
            outcome=str(found.get("outcome", "")),
            unreliable=str(found.get("unreliable") or ""),
            origin=dict(origin or {}),
            items=items,
            **numbers,
        )

    @property
    def key(self) -> Key:
        return self.candidate, self.metric

    @property
    def is_error(self) -> bool:
        """Whether nothing was measured, because its case ended in an error."""
        return self.n < 1

    @property
    def standard_error(self) -> float:
        """As the interval has it, and 0 for a number without one; infinite where it has no end."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return math.inf
        if self.low == self.high:
            return 0.0
        from scipy.stats import norm

        return (self.high - self.low) / (2 * float(norm.ppf(0.5 + self.confidence / 2)))


def _of(kind: type, value: object) -> Any:
    """``value`` if it is of a kind; a TypeError otherwise."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(value)
    return value


@dataclass(frozen=True)
class Earlier:
    """The earlier run.

    Attributes:
        records: its gates.
        note: what a reader should know of it; empty where there is nothing to say.
    """

    records: Mapping[Key, Record]
    note: str = ""


def read_earlier(directory: Path) -> Earlier:
    """The gates of an earlier report; none where there is no report yet, as on the first night.

    Raises:
        EvalError: a report that is damaged, or that may not be read.
    """
    file = directory / REPORT
    if directory.exists() and not directory.is_dir():
        raise EvalError(f"earlier report {directory}: not a directory; name the folder of a report")
    if not file.exists():
        return Earlier({}, f"no earlier report in {directory}, so there is nothing to compare with")
    content, packed = _read(file), None
    if (directory / FILE).exists():
        packed = _read(directory / FILE)
    values, note = {}, ""
    if packed is not None:
        values, run = unpack(packed, f"earlier report {directory}: {FILE}")
        if run != digest_of(content):  # a run that was killed while it wrote its report
            values, note = {}, f"{directory / FILE} is not of that report, so it is left out"
    records = {record.key: record for record in _records(file, content, values)}
    if not records:
        note = f"the report in {directory} holds no verdict, so there is nothing to compare with"
    return Earlier(records, note)


def _read(file: Path) -> bytes:
    if is_stream(file):
        raise EvalError(f"earlier report {file}: not a regular file")
    try:
        return file.read_bytes()
    except OSError as error:
        raise EvalError(f"earlier report {file}: {error.strerror}") from error


def _records(file: Path, content: bytes, values: Mapping[Key, ItemValues]) -> list[Record]:
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
            if row.get("verdict") is not None:
                record = Record.of(row["verdict"], row.get("origin"))
                found.append(replace(record, items=values.get(record.key)))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
                ValueError) as error:  # fmt: skip
            raise EvalError(
                f"earlier report {file}: line {number} is no verdict; delete the damaged report"
            ) from error
    return found
