"""What got worse since an earlier report, and whether it is noise. Pure.

Where both runs measured the same items, their values are compared item by item: whatever made an
item easy or hard cancels from the difference. Timings, and gates of which the earlier report has no
values, are compared as independent runs.

A change is told as worse only where it is proven to exceed a floor, below which no difference is
news: a twentieth of what the gate allows for a drift, 1 % for a number that was counted, such as
bytes, and 10 % for a timing. The rate of false alarms is that of a month, spent equally over its
nights.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compression_gates.evals.errors import listed
from compression_gates.evals.gates.earlier import Earlier, Record
from compression_gates.evals.gates.families import BENJAMINI_HOCHBERG, HOLM, RATE, alarms
from compression_gates.evals.gates.gate import FAR, NOT_JUDGED
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.units import counted
from compression_gates.evals.statistics.item_values import Key

NIGHTS = 30
"""Nights over which the family's rate is spent."""
DRIFT_FLOOR = 0.05
"""Of a gate's limit: smaller changes of a drift are no news."""
EXACT_FLOOR = 0.01
"""Relative change of a number without an interval, below which it is no news."""
TIMING_FLOOR = 0.1
"""Relative change of a number that depends on timings, below which it is no news."""
TIMING_NOISE = 0.02
"""Relative standard deviation of a timing from night to night, beside that within a night: memory
is laid out otherwise, clocks and neighbours differ. No interval of one run can show it."""
_DIFFERS = {
    "baseline": "the baseline differs",
    "data": "the data differ",
    "machine": "the machine differs",
}


@dataclass(frozen=True)
class Change:
    """A gate then and now.

    Attributes:
        candidate, metric: of the gate.
        before, after: its numbers.
        p: one-sided p-value that it did not get worse by more than the floor; NaN where it is not
            a number any more.
        paired: the number of items that were compared one by one; 0 where the two runs were
            compared as independent.
        same: whether every value is the same as it was, so that nothing can have got worse.
        worse: whether it stands out among all of its family.
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
    """This run beside an earlier one.

    Attributes:
        changes: every gate that both have a comparable number for, those that got worse first.
        unpaired: reason by gate: compared as independent runs although both measured items.
        refused: reason by gate: not compared, because the numbers are of different things.
        new, gone: gates that only this run has, and only the earlier one.
        family: how the changes were judged together.
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
        """What is proven to have got worse."""
        return [change for change in self.changes if change.worse]

    def lines(self) -> list[str]:
        """What the summary says of the comparison, the most important first."""
        found = []
        if self.changes:
            found.append(self._verdict())
        elif not self.first:
            found.append("no gate has a number that can be compared in both runs")
        if self.note:
            found.append(self.note)
        for reason, keys in _by_reason(self.unpaired):
            found.append(f"compared as independent runs, {reason}: {_named(keys)}")
        for reason, keys in _by_reason(self.refused):
            found.append(f"not comparable, {reason}: {_named(keys)}")
        if self.new and not self.first:
            found.append(f"not in the earlier report: {_named(self.new)}")
        if self.gone:
            found.append(f"in the earlier report, and not run now: {_named(self.gone)}")
        return found

    def _verdict(self) -> str:
        worse = [str(change) for change in self.regressions]
        paired = sum(change.paired > 0 for change in self.changes)
        by = f"({_bound(self.family)})"
        if not worse:
            count = f"{counted(len(self.changes), 'gate')}, {paired} compared item by item"
            return f"nothing got worse beyond noise in {count} {by}"
        return f"WORSE {by}: {listed(worse, '; ')}"


def _bound(family: str) -> str:
    if family == BENJAMINI_HOCHBERG:
        return f"Benjamini-Hochberg: at most {RATE / NIGHTS:.3%} of a night's alarms false"
    return f"Holm: false alarms in at most {RATE:.0%} of months of {NIGHTS} nights"


def _by_reason(reasons: Mapping[Key, str]) -> list[tuple[str, list[Key]]]:
    return [
        (reason, [key for key, own in reasons.items() if own == reason])
        for reason in dict.fromkeys(reasons.values())
    ]


def _named(keys: Sequence[Key]) -> str:
    return listed([" ".join(key) for key in keys])


def compared(now: Sequence[Record], earlier: Earlier, family: str = HOLM) -> Comparison:
    """This run beside an earlier one.

    Cases that ended in an error, now or then, and gates that were not judged take no part. Gates
    whose every value is what it was cannot raise a false alarm, so that the others are not
    corrected for them.

    Args:
        now: the gates of this run.
        earlier: from :func:`evals.gates.earlier.read_earlier`.
        family: how they are judged together, as in :func:`evals.gates.families.alarms`, at
            :data:`evals.gates.families.RATE` over :data:`NIGHTS`.
    """
    changes, unpaired, refused = [], {}, {}
    for record in now:
        before = earlier.records.get(record.key)
        if before is None or not (_is_measured(record) and _is_measured(before)):
            continue
        reason = _incomparable(record, before)
        if reason:
            refused[record.key] = reason
            continue
        change, reason = _change(record, before)
        changes.append(change)
        if reason:
            unpaired[record.key] = reason
    moved = [change for change in changes if not change.same]
    found = alarms([change.p for change in moved], family, RATE / NIGHTS)
    marked = [replace(c, worse=bool(alarm)) for c, alarm in zip(moved, found, strict=True)]
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


def _is_measured(record: Record) -> bool:
    return record.metric in METRICS and record.outcome != NOT_JUDGED and not record.is_error


def _incomparable(now: Record, then: Record) -> str:
    """Why two records of the same name are of different things; empty where they are not."""
    pairs = [(now.origin, then.origin)]
    if now.items is not None and then.items is not None:
        pairs.append((now.items.origin, then.items.origin))
    for part in _DIFFERS:
        for one, two in pairs:
            if part in one and part in two and one[part] != two[part]:
                return _DIFFERS[part]
    return ""


def _change(now: Record, then: Record) -> tuple[Change, str]:
    """The change, and why its items were not paired although they were sampled."""
    paired, reason = _pairing(now, then)
    same = now.value == then.value
    if paired:
        same = np.array_equal(now.items.values, then.items.values)
    if same or math.isnan(then.value):
        p = 1.0
    elif math.isnan(now.value):
        p = math.nan
    elif METRICS[now.metric].timed:
        p = _p_slower(now, then)
    else:
        p = _p_paired(now, then) if paired else _p_independent(now, then)
    change = Change(now.candidate, now.metric, then.value, now.value, p, paired, same)
    return change, reason


def _pairing(now: Record, then: Record) -> tuple[int, str]:
    """How many items can be compared one by one, and why none can where items were sampled."""
    if METRICS[now.metric].timed:
        return 0, ""
    if now.items is None:
        return 0, "" if now.low == now.high else "no values of items are kept of it"
    if then.items is None:
        return 0, "the earlier report has no values of items"
    if not now.items.same_items(then.items):
        return 0, "they were measured by another protocol"
    if not all(np.isfinite(side.items.values).all() for side in (now, then)):
        return 0, "not all of their values are finite"
    return len(now.items.values), ""


def _p_paired(now: Record, then: Record) -> float:
    rise = now.items.rise_since(then.items)
    rise = rise if METRICS[now.metric].at_most else -rise
    flips = now.items.flips_since(then.items)
    if flips is not None:
        losses, gains = flips if METRICS[now.metric].at_most else flips[::-1]
        return _p_sign(losses, gains) if rise.value > _floor(now) else 1.0
    return _reliable(rise.p_above(_floor(now)), rise.unreliable)


def _p_sign(losses: int, gains: int) -> float:
    """One-sided exact p-value of McNemar's test that losses are at most as likely as gains.

    Far out in its tail, where the p-values of many gates are judged, an interval is less powerful.
    """
    from scipy.stats import binom

    return float(binom.sf(losses - 1, losses + gains, 0.5))


def _p_independent(now: Record, then: Record) -> float:
    rise = now.value - then.value
    rise = rise if METRICS[now.metric].at_most else -rise
    error = math.hypot(now.standard_error, then.standard_error)
    floor = _floor(now) if METRICS[now.metric].at_most else EXACT_FLOOR * abs(then.value)
    return _reliable(_p_normal(rise - floor, error), now.unreliable or then.unreliable)


def _p_slower(now: Record, then: Record) -> float:
    """Of a gain that depends on timings, on the scale of relative changes."""
    if not (now.value > 0 and then.value > 0):
        return 1.0 if now.value >= then.value else _p_independent(now, then)
    errors = [record.standard_error / record.value for record in (now, then)]
    error = math.hypot(*errors, TIMING_NOISE, TIMING_NOISE)
    fall = math.log(then.value / now.value) + math.log1p(-TIMING_FLOOR)
    return _reliable(_p_normal(fall, error), now.unreliable or then.unreliable)


def _floor(now: Record) -> float:
    return DRIFT_FLOOR * abs(now.limit)


def _p_normal(rise: float, error: float) -> float:
    if not rise > 0:
        return 1.0
    return 0.5 * math.erfc(rise / error / math.sqrt(2)) if error > 0 else 0.0


def _reliable(p: float, unreliable: str) -> float:
    """An interval that may cover less than it says proves only what lies far beyond it, as in
    :func:`evals.gates.gate.judge`."""
    return 1.0 if unreliable and not p < FAR else p
