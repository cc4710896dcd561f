"""The p-value that a gate got worse between two runs, or between the means of several runs.

A rise counts only if it exceeds a threshold: one twentieth of the gate's limit for a drift, 1 % for
a number that was counted, such as bytes, and 10 % for a timing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from compression_gates.evals.gates.earlier import Record
from compression_gates.evals.gates.gate import NOT_JUDGED, UNRELIABLE_P
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.statistics.changes import sign_flip_test
from compression_gates.evals.statistics.item_values import (
    MEAN,
    PROPORTION,
    SCORE_CHANGE,
    ItemValues,
)

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
_ANSWERS = (SCORE_CHANGE, PROPORTION)
"""Kinds of values that are the scores of answers, or changes of them."""
_WHOLE = 1e-6
"""Distance from a whole number within which a sum of rounded changes counts as one."""


def is_measured(record: Record) -> bool:
    """Return whether a record holds the measurement of a metric that exists. The value may be NaN,
    which is a failure in a later run, and nothing to compare with in an earlier one."""
    return record.metric in METRICS and record.outcome != NOT_JUDGED and not record.is_error


def incomparable(now: Record, then: Record) -> str:
    """Return why two records of the same gate cannot be compared; empty if they can."""
    pairs = [(now.origin, then.origin)]
    if now.items is not None and then.items is not None:
        pairs.append((now.items.origin, then.items.origin))
    for part in _DIFFERS:
        for origin, other in pairs:
            if part in origin and part in other and origin[part] != other[part]:
                return _DIFFERS[part]
    return ""


def pairing(now: Record, then: Record) -> tuple[int, str]:
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


def is_same(now: Record, then: Record) -> bool:
    """Return whether all values of two records are identical."""
    if pairing(now, then)[0]:
        return np.array_equal(now.items.values, then.items.values)
    return now.value == then.value


def mean_record(records: Sequence[Record]) -> Record:
    """Return the mean of the records of one gate in several runs.

    Items are averaged one by one if all runs measured the same ones, and keep the kind of the
    values of a single run. An interval of the mean is the
    mean of the intervals: the error that all runs share, such as that of the items, is not reduced
    by averaging.

    Args:
        records: of comparable runs, at least one.
    """
    first, runs = records[0], len(records)
    if runs == 1:
        return first
    items = first.items
    if items is not None and all(pairing(record, first)[0] for record in records):
        values = np.mean([record.items.values.astype(np.float64) for record in records], axis=0)
        items = replace(items, values=values)
    else:
        items = None
    fields = {
        name: float(np.mean([getattr(record, name) for record in records]))
        for name in ("value", "low", "high")
    }
    unreliable = next((record.unreliable for record in records if record.unreliable), "")
    return replace(first, items=items, runs=runs, unreliable=unreliable, **fields)


def p_worse(now: Record, then: Record) -> float:
    """Return the one-sided p-value of the null hypothesis that a gate did not get worse by more
    than the threshold; NaN if the later value is not a number."""
    if is_same(now, then) or math.isnan(then.value):
        return 1.0
    if math.isnan(now.value):
        return math.nan
    if METRICS[now.metric].timed:
        return _p_slower(now, then)
    return _p_paired(now, then) if pairing(now, then)[0] else _p_independent(now, then)


def _p_paired(now: Record, then: Record) -> float:
    sign = 1 if METRICS[now.metric].at_most else -1
    net = _net_changes(now, then)
    if net is not None:
        changes = now.items.values.astype(np.float64) - then.items.values
        is_beyond = sign * float(changes.mean()) > _threshold(now)
        return sign_flip_test(sign * net) if is_beyond else 1.0
    rise = _graded(now).rise_since(_graded(then))
    rise = rise if sign > 0 else -rise
    return _reliable(rise.p_above(_threshold(now)), rise.unreliable)


def _graded(record: Record) -> ItemValues:
    """Return the items, with the kind that gives means of answers the interval of any numbers."""
    is_graded = record.runs > 1 and record.items.kind in _ANSWERS
    return replace(record.items, kind=MEAN) if is_graded else record.items


def _net_changes(now: Record, then: Record) -> np.ndarray | None:
    """Return the change of each document, in whole numbers; None if the values are not those of
    answers, or if answers are graded.

    At the small p-values that matter if many gates are judged, a test on signs has more power than
    an interval. Between single runs it is used only for items in documents of their own.
    """
    if now.runs == then.runs == 1:
        flips = now.items.flips_since(then.items)
        return None if flips is None else np.repeat([1, -1], flips)
    if now.items.kind not in _ANSWERS or (now.items.sizes != 1).any():
        return None
    scale = math.lcm(now.runs, then.runs)
    changes = (now.items.values.astype(np.float64) - then.items.values) * scale
    whole = np.rint(changes)
    if np.abs(changes - whole).max() > _WHOLE or not whole.any():
        return None
    return np.rint(np.bincount(now.items.documents, whole)).astype(np.int64)


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
    noise = [TIMING_NOISE / math.sqrt(record.runs) for record in (now, then)]
    fall = math.log(then.value / now.value) + math.log1p(-TIMING_THRESHOLD)
    return _reliable(
        _p_normal(fall, math.hypot(*errors, *noise)), now.unreliable or then.unreliable
    )


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
