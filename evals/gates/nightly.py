"""Comparison with an earlier run: which gates got significantly worse.

If both runs measured the same items, their values are compared item by item, so that the difficulty
of an item cancels from the difference. Timings, and gates without per-item values in the earlier
report, are compared as independent samples.

A regression is reported only if it is proven to exceed a threshold: one twentieth of the gate's
limit for a drift, 1 % for a number that was counted, such as bytes, and 10 % for a timing. The rate
of false alarms is bounded per month, and divided equally among its nights.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compression_gates.evals.errors import listed
from compression_gates.evals.gates.earlier import EarlierRun, Record
from compression_gates.evals.gates.families import (
    BENJAMINI_HOCHBERG,
    FALSE_ALARM_RATE,
    HOLM,
    alarms,
)
from compression_gates.evals.gates.rises import (
    incomparable,
    is_measured,
    is_same,
    p_worse,
    pairing,
)
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.units import counted
from compression_gates.evals.statistics.item_values import Key

NIGHTS = 30
"""Number of nights among which the rate of false alarms is divided."""


@dataclass(frozen=True)
class Change:
    """The change of a gate between two runs.

    Attributes:
        candidate, metric: of the gate.
        before, after: its values.
        p: one-sided p-value of the null hypothesis that it did not get worse by more than the
            threshold; NaN if the later value is not a number.
        paired: number of items that were compared one by one; 0 if the runs were compared as
            independent samples.
        same: whether all values are identical.
        worse: whether the regression is significant among all gates.
    """

    candidate: str
    metric: str
    before: float
    after: float
    p: float
    paired: int = 0
    same: bool = False
    worse: bool = False

    def __str__(self) -> str:
        show, before, after = METRICS[self.metric].show, self.before, self.after
        return f"{self.candidate} {self.metric} {show(before, after)} -> {show(after, before)}"


@dataclass(frozen=True)
class Comparison:
    """The comparison of a run with an earlier one.

    Attributes:
        changes: of the gates with comparable values in both runs, the regressions first.
        unpaired: for gates that were compared as independent samples although both runs measured
            items, the reason.
        refused: for gates that were not compared, because something else differs or the earlier
            value is not finite, the reason.
        new, gone: gates that only this run has, and only the earlier one.
        family: method of the correction for multiple testing.
        note: of the earlier run.
        first: whether there is no earlier run.
    """

    changes: Sequence[Change]
    unpaired: Mapping[Key, str]
    refused: Mapping[Key, str]
    new: Sequence[Key]
    gone: Sequence[Key]
    family: str = HOLM
    note: str = ""
    first: bool = False

    @property
    def regressions(self) -> list[Change]:
        """The changes that are significantly worse."""
        return [change for change in self.changes if change.worse]

    def lines(self) -> list[str]:
        """Return the lines of the summary, the most important first."""
        lines = []
        if self.changes:
            lines.append(self._verdict())
        elif not self.first:
            lines.append("no gate has a comparable value in both runs")
        if self.note:
            lines.append(self.note)
        for reason, keys in _by_reason(self.unpaired):
            lines.append(f"compared as independent runs, {reason}: {_named(keys)}")
        for reason, keys in _by_reason(self.refused):
            lines.append(f"not comparable, {reason}: {_named(keys)}")
        if self.new and not self.first:
            lines.append(f"not in the earlier report: {_named(self.new)}")
        if self.gone:
            lines.append(f"in the earlier report, but not in this run: {_named(self.gone)}")
        return lines

    def _verdict(self) -> str:
        worse = [str(change) for change in self.regressions]
        paired = sum(change.paired > 0 for change in self.changes)
        bound = f"({_bound(self.family)})"
        if not worse:
            count = f"{counted(len(self.changes), 'gate')}, {paired} compared item by item"
            return f"nothing got worse beyond noise in {count} {bound}"
        return f"WORSE {bound}: {listed(worse, '; ')}"


def _bound(family: str) -> str:
    if family == BENJAMINI_HOCHBERG:
        return (
            f"Benjamini-Hochberg: at most {FALSE_ALARM_RATE / NIGHTS:.3%} of a night's alarms false"
        )
    return f"Holm: false alarms in at most {FALSE_ALARM_RATE:.0%} of months of {NIGHTS} nights"


def _by_reason(reasons: Mapping[Key, str]) -> list[tuple[str, list[Key]]]:
    return [
        (reason, [key for key, other in reasons.items() if other == reason])
        for reason in dict.fromkeys(reasons.values())
    ]


def _named(keys: Sequence[Key]) -> str:
    return listed([" ".join(key) for key in keys])


def compare_runs(now: Sequence[Record], earlier: EarlierRun, family: str = HOLM) -> Comparison:
    """Compare a run with an earlier one.

    Cases that ended in an error in either run and gates that were not judged are left out. Gates
    with identical values cannot raise a false alarm, so they do not count in the correction for
    multiple testing.

    Args:
        now: the gates of this run.
        earlier: from :func:`evals.gates.earlier.read_earlier_run`.
        family: method of the correction, as in :func:`evals.gates.families.alarms`, at the rate
            :data:`evals.gates.families.FALSE_ALARM_RATE` divided by :data:`NIGHTS`.
    """
    changes, unpaired, refused = [], {}, {}
    for record in now:
        before = earlier.records.get(record.key)
        if before is None or not (is_measured(record) and is_measured(before)):
            continue
        reason = incomparable(record, before)
        if not reason and not math.isfinite(before.value):
            reason = "no finite value in the earlier report"
        if reason:
            refused[record.key] = reason
            continue
        change, reason = _change(record, before)
        changes.append(change)
        if reason:
            unpaired[record.key] = reason
    changed = [change for change in changes if not change.same]
    rejected = alarms([change.p for change in changed], family, FALSE_ALARM_RATE / NIGHTS)
    marked = [replace(c, worse=bool(alarm)) for c, alarm in zip(changed, rejected, strict=True)]
    marked += [change for change in changes if change.same]
    keys = [record.key for record in now]
    return Comparison(
        changes=sorted(marked, key=lambda c: (not c.worse, c.p if c.p == c.p else -1.0)),
        unpaired=unpaired,
        refused=refused,
        new=[key for key in keys if key not in earlier.records],
        gone=[key for key in earlier.records if key not in keys],
        family=family,
        note=earlier.note,
        first=not earlier.records,
    )


def _change(now: Record, then: Record) -> tuple[Change, str]:
    """Return the change, and why items were not paired although there are some."""
    paired, reason = pairing(now, then)
    same, p = is_same(now, then), p_worse(now, then)
    change = Change(now.candidate, now.metric, then.value, now.value, p, paired, same)
    return change, reason
