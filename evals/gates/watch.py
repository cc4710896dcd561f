"""Tests of a gate over the runs since a reference: against the reference, for steps and for drifts.

Each test compares means of runs item by item, as :mod:`evals.gates.rises` compares two runs. Runs
that were not changed have identical values, so nothing is assumed about the dependence of one run
on another.

At most :data:`evals.gates.families.FALSE_ALARM_RATE` of the months of thirty runs without a
regression have any false alarm. A run spends the thirtieth part, which is divided among the three
kinds of tests by :data:`SHARES`, and among the gates by a correction for multiple testing. What is
spent does not depend on earlier runs, so the bound holds anew for the thirty runs after each
accepted reference, and for each further thirty runs.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compression_gates.evals.gates.earlier import Record
from compression_gates.evals.gates.families import FALSE_ALARM_RATE, HOLM, alarms
from compression_gates.evals.gates.nightly import NIGHTS
from compression_gates.evals.gates.rises import is_same, mean_record, p_worse
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.statistics.drift import thirds
from compression_gates.evals.statistics.item_values import Key

REFERENCE, STEP, DRIFT = "reference", "step", "drift"
"""Kinds of tests: the latest run against the reference; the latest level against the level before
it; the last third of the runs against the first third."""
SHARES: Mapping[str, float] = {REFERENCE: 0.4, STEP: 0.3, DRIFT: 0.3}
"""Share of the rate of false alarms that each kind of test may spend."""
NEIGHBOURS = 6
"""Largest number of runs on each side of a step whose mean is compared."""


@dataclass(frozen=True)
class Watched:
    """The tests of one gate.

    Attributes:
        key: candidate and metric.
        p: one-sided p-value that it got worse, by kind of test; 1 where there are too few runs.
        p_better: the same of an improvement since the reference.
        same: whether the latest run has exactly the values of the reference.
        step: index of the run that begins the latest level, if that is worse than the level before
            it; None if there is no such step.
        worse_steps: number of steps to a worse level. A drift is fitted by several.
        drift: number of runs over which the drift has the smallest p-value; 0 if there are too few.
    """

    key: Key
    p: Mapping[str, float]
    p_better: float = 1.0
    same: bool = False
    step: int | None = None
    worse_steps: int = 0
    drift: int = 0


def watch(
    records: Sequence[Record], find_steps: Callable[[Sequence[Record]], Sequence[int]]
) -> Watched:
    """Test one gate.

    Args:
        records: of the gate in comparable runs: the reference first, and the latest run last.
        find_steps: returns the positions of steps, such as
            :func:`evals.history.series.positions_of_steps`.
    """
    reference, now = records[0], records[-1]
    p_reference = p_worse(now, reference)
    finite = [record for record in records if np.isfinite(record.value)]
    p_step, p_drift, step, steps, drift = 1.0, 1.0, None, 0, 0
    if len(finite) > 2 and finite[-1] is now:
        positions = find_steps(finite)
        steps = _worse_steps(finite, positions)
        p_step, step = _step(finite, positions)
        p_drift, drift = _drift(finite)
        step = None if step is None else _position(records, finite[step])
    return Watched(
        now.key,
        {REFERENCE: p_reference, STEP: p_step, DRIFT: p_drift},
        p_better=p_worse(reference, now) if np.isfinite(now.value) else 1.0,
        same=len(records) > 1 and all(is_same(now, record) for record in records[:-1]),
        step=step,
        worse_steps=steps,
        drift=drift,
    )


def _position(records: Sequence[Record], record: Record) -> int:
    return next(index for index, other in enumerate(records) if other is record)


def _is_worse(now: Record, then: Record) -> bool:
    rise = now.value - then.value
    return rise > 0 if METRICS[now.metric].at_most else rise < 0


def _is_worse_still(now: Record, later: Record, earlier: Record) -> bool:
    """Return whether a level is worse than an earlier one, and the latest run is closer to the
    worse one, so that the regression was not fixed meanwhile."""
    middle = replace(earlier, value=(earlier.value + later.value) / 2)
    return _is_worse(later, earlier) and _is_worse(now, middle)


def _worse_steps(records: Sequence[Record], positions: Sequence[int]) -> int:
    levels = [
        mean_record(records[start:end])
        for start, end in itertools.pairwise([0, *positions, len(records)])
    ]
    return sum(_is_worse(after, before) for before, after in itertools.pairwise(levels))


def _step(records: Sequence[Record], positions: Sequence[int]) -> tuple[float, int | None]:
    """Return the p-value that the latest level is worse than the one before, and where it begins.

    Half of the level of the test is spent on a step at the latest run, and the other half is
    divided among all earlier positions.
    """
    last = len(records) - 1
    p_latest = 2 * p_worse(records[last], mean_record(records[:last][-NEIGHBOURS:]))
    if not positions:
        return min(p_latest, 1.0), None
    before, start = [0, *positions][-2:]
    earlier = mean_record(records[before:start][-NEIGHBOURS:])
    later = mean_record(records[start:][-NEIGHBOURS:])
    if not _is_worse_still(records[last], later, earlier):
        return min(p_latest, 1.0), None
    p_fitted = 2 * last * p_worse(later, earlier)
    return min(p_latest, p_fitted, 1.0), start


def _drift(records: Sequence[Record]) -> tuple[float, int]:
    """Return the p-value of a drift up to now, and the number of runs over which it is smallest."""
    windows = list(thirds(len(records)))
    best = 1.0, 0
    for first, latest in windows:
        earlier, later = mean_record(records[first]), mean_record(records[latest])
        if not _is_worse_still(records[-1], later, earlier):
            continue
        p = min(len(windows) * p_worse(later, earlier), 1.0)
        best = min(best, (p, len(records) - first.start))
    return best


def decide(watched: Sequence[Watched], family: str = HOLM) -> list[set[str]]:
    """Return for each gate the kinds of tests that prove that it got worse.

    Gates with identical values in all runs cannot raise a false alarm, so they do not count in the
    correction for multiple testing.

    Args:
        watched: the tests of all gates of a run.
        family: method of the correction, as in :func:`evals.gates.families.alarms`.
    """
    kinds: list[set[str]] = [set() for _ in watched]
    changed = [index for index, gate in enumerate(watched) if not gate.same]
    for kind, share in SHARES.items():
        rate = FALSE_ALARM_RATE / NIGHTS * share
        rejected = alarms([watched[index].p[kind] for index in changed], family, rate)
        for index, alarm in zip(changed, rejected, strict=True):
            if alarm:
                kinds[index].add(kind)
    return kinds


def improved(watched: Sequence[Watched], family: str = HOLM) -> list[bool]:
    """Return which gates are proven to be better than the reference, at the rate of a run."""
    changed = [gate for gate in watched if not gate.same]
    rejected = alarms([gate.p_better for gate in changed], family, FALSE_ALARM_RATE / NIGHTS)
    better = {gate.key for gate, alarm in zip(changed, rejected, strict=True) if alarm}
    return [gate.key in better for gate in watched]
