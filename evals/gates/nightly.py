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

import numpy as np

from compression_gates.evals.errors import listed
from compression_gates.evals.gates.earlier import EarlierRun, Record
from compression_gates.evals.gates.families import (
    BENJAMINI_HOCHBERG,
    FALSE_ALARM_RATE,
    HOLM,
    alarms,
)
from compression_gates.evals.gates.gate import NOT_JUDGED, UNRELIABLE_P
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.units import counted
from compression_gates.evals.statistics.item_values import Key

NIGHTS = 30
"""Number of nights among which the rate of false alarms is divided."""
DRIFT_THRESHOLD = 0.05
"""Smallest reported rise of a drift, as a share of the gate's limit."""
EXACT_THRESHOLD = 0.01
"""Smallest reported relative change of a number without an interval."""
TIMING_THRESHOLD = 0.1
"""Smallest reported relative change of a metric that depends on timings."""
TIMING_NOISE = 0.02
"""Relative standard deviation of a timing between nights, beside that within a night. Memory
layout, clock rates and other load differ, which the interval of a single run does not show."""
_DIFFERS = {
    "baseline": "the baseline differs",
    "data": "the data differ",
    "machine": "the machine differs",
}


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
        refused: for gates that were not compared, because something else differs, the reason.
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


def _is_measured(record: Record) -> bool:
    return record.metric in METRICS and record.outcome != NOT_JUDGED and not record.is_error


def _incomparable(now: Record, then: Record) -> str:
    """Return why two records of the same gate cannot be compared; empty if they can."""
    pairs = [(now.origin, then.origin)]
    if now.items is not None and then.items is not None:
        pairs.append((now.items.origin, then.items.origin))
    for part in _DIFFERS:
        for origin, other in pairs:
            if part in origin and part in other and origin[part] != other[part]:
                return _DIFFERS[part]
    return ""


def _change(now: Record, then: Record) -> tuple[Change, str]:
    """Return the change, and why items were not paired although there are some."""
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
    """Return how many items can be paired, and why none can although there are some."""
    if METRICS[now.metric].timed:
        return 0, ""
    if now.items is None:
        return 0, "" if now.low == now.high else "its per-item values are not stored"
    if then.items is None:
        return 0, "the earlier report has no per-item values"
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
        return _p_sign(losses, gains) if rise.value > _threshold(now) else 1.0
    return _reliable(rise.p_above(_threshold(now)), rise.unreliable)


def _p_sign(losses: int, gains: int) -> float:
    """Return the p-value of McNemar's exact one-sided test that losses are no likelier than gains.

    At the small p-values that matter if many gates are judged, it has more power than an interval.
    """
    from scipy.stats import binom

    return float(binom.sf(losses - 1, losses + gains, 0.5))


def _p_independent(now: Record, then: Record) -> float:
    rise = now.value - then.value
    rise = rise if METRICS[now.metric].at_most else -rise
    error = math.hypot(now.standard_error, then.standard_error)
    threshold = (
        _threshold(now) if METRICS[now.metric].at_most else EXACT_THRESHOLD * abs(then.value)
    )
    return _reliable(_p_normal(rise - threshold, error), now.unreliable or then.unreliable)


def _p_slower(now: Record, then: Record) -> float:
    """Return the p-value of a gain that depends on timings, on the scale of relative changes."""
    if not (now.value > 0 and then.value > 0):
        return 1.0 if now.value >= then.value else _p_independent(now, then)
    errors = [record.standard_error / record.value for record in (now, then)]
    error = math.hypot(*errors, TIMING_NOISE, TIMING_NOISE)
    fall = math.log(then.value / now.value) + math.log1p(-TIMING_THRESHOLD)
    return _reliable(_p_normal(fall, error), now.unreliable or then.unreliable)


def _threshold(now: Record) -> float:
    return DRIFT_THRESHOLD * abs(now.limit)


def _p_normal(rise: float, error: float) -> float:
    if not rise > 0:
        return 1.0
    return 0.5 * math.erfc(rise / error / math.sqrt(2)) if error > 0 else 0.0


def _reliable(p: float, unreliable: str) -> float:
    """Return ``p``, or 1 if it is from an unreliable interval and above
    :data:`evals.gates.gate.UNRELIABLE_P`."""
    return 1.0 if unreliable and not p < UNRELIABLE_P else p
