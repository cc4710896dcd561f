"""What got worse since an earlier report, and whether it is noise. Pure but for reading the report.

The two runs judge the same items, so taking their errors for independent, as is done here, finds
less than there is and never cries wolf: whatever both runs share cancels from a difference.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.errors import EvalError
from evals.families import HOLM, alarms
from evals.gate import METRICS, Verdict

Key = tuple[str, str]
"""Candidate and metric."""


@dataclass(frozen=True)
class Change:
    """A gate then and now.

    Attributes:
        candidate, metric: of the gate.
        before, after: its numbers.
        p: one-sided p-value that it did not get worse.
        worse: whether it stands out among all of its family.
    """

    candidate: str
    metric: str
    before: float
    after: float
    p: float
    worse: bool = False

    def __str__(self) -> str:
        show, before, after = METRICS[self.metric].show, self.before, self.after
        return f"{self.candidate} {self.metric} {show(before, after)} -> {show(after, before)}"


def read_earlier(directory: Path) -> dict[Key, Mapping]:
    """The verdicts of a ``report.jsonl``, by candidate and metric.

    Raises:
        EvalError: no such report, or lines that are none.
    """
    file = directory / "report.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"--since {directory}: no report.jsonl to be read there") from error
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            verdict = row.get("verdict")
            if verdict is not None:
                found[verdict["candidate"], verdict["metric"]] = verdict
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise EvalError(f"{file}: line {number} is no verdict") from error
    if not found:
        raise EvalError(f"{file}: no verdict in it")
    return found


def compared(
    now: Sequence[Verdict], earlier: Mapping[Key, Mapping], family: str = HOLM
) -> list[Change]:
    """Every gate that both runs have a number for, those that got worse first.

    Args:
        now: verdicts of this run.
        earlier: those of :func:`read_earlier`.
        family: how they are judged together, as in :func:`evals.families.alarms`.
    """
    found = []
    for verdict in now:
        before = earlier.get((verdict.candidate, verdict.metric))
        if before is None:
            continue
        value, error = _number(before, "value"), _error(before)
        p = _p_worse(verdict, value, math.hypot(error, _error(vars(verdict))))
        found.append(Change(verdict.candidate, verdict.metric, value, verdict.value, p))
    told = alarms([change.p for change in found], family) if found else []
    marked = [
        Change(**{**vars(change), "worse": bool(alarm)})
        for change, alarm in zip(found, told, strict=True)
    ]
    return sorted(marked, key=lambda change: (not change.worse, change.p))


def _p_worse(verdict: Verdict, before: float, error: float) -> float:
    """What is no number any more is worse; what was none is not."""
    if math.isnan(before):
        return 1.0
    rise = verdict.value - before
    rise = rise if METRICS[verdict.metric].at_most else -rise
    if math.isnan(rise):
        return 0.0
    if rise <= 0:
        return 1.0
    return 0.5 * math.erfc(rise / error / math.sqrt(2)) if error > 0 else 0.0


def _error(verdict: Mapping) -> float:
    """Standard error of a number, as its interval has it; infinite where that has no end."""
    low, high = _number(verdict, "low"), _number(verdict, "high")
    if not (math.isfinite(low) and math.isfinite(high)):
        return math.inf
    from scipy.stats import norm

    return (high - low) / (2 * float(norm.ppf(0.5 + verdict["confidence"] / 2)))


def _number(verdict: Mapping, name: str) -> float:
    """A number of a report, where NaN and infinities are written as null."""
    value = verdict.get(name)
    return math.nan if value is None else float(value)
