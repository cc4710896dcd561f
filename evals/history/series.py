"""The series of a gate over the runs of a history, with the steps in it."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compression_gates.evals.gates.earlier import Record
from compression_gates.evals.gates.rises import TIMING_NOISE, incomparable, pairing
from compression_gates.evals.history.runs import StoredCase, StoredRun
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.statistics.clusters import ClusterSums
from compression_gates.evals.statistics.steps import FEW_VALUES, fit_steps


@dataclass(frozen=True)
class GatePoint:
    """The value of a gate in one run.

    Attributes:
        run: number of the run; 0 for one that is not stored yet.
        time: ISO 8601, UTC.
        commit: of the working folder; empty if unknown.
        value, low, high: the estimate and its interval; NaN if it was not measured.
        accepted: whether the run was accepted as a reference.
    """

    run: int
    time: str
    commit: str
    value: float
    low: float
    high: float
    accepted: bool


@dataclass(frozen=True)
class LevelStep:
    """A change of the level of a series.

    Attributes:
        point: index of the first point on the new level.
        run, time, commit: of that point.
        before, after: the means of the values on both levels.
    """

    point: int
    run: int
    time: str
    commit: str
    before: float
    after: float


@dataclass(frozen=True)
class GateSeries:
    """All values of a gate in the runs of a profile, the oldest first, and the steps that fit them.

    The steps describe the measured values. Whether one is significant is decided by
    :mod:`evals.history.what_changed`.

    Attributes:
        candidate, metric, limit: of the gate; the limit is the latest.
        points: one for each run that has the case.
        steps: from :func:`evals.statistics.steps.fit_steps`, applied to each part of the series
            whose values can be compared.
        breaks: by the index of a point that cannot be compared with the one before it, why not.
        profile: of the runs.
    """

    candidate: str
    metric: str
    limit: float
    points: Sequence[GatePoint]
    steps: Sequence[LevelStep]
    breaks: Mapping[int, str] = field(default_factory=dict)
    profile: str = ""


def series_of(runs: Sequence[StoredRun], cases: Mapping[int, StoredCase]) -> GateSeries:
    """Return the series of one gate.

    Args:
        runs: of one profile, the oldest first.
        cases: the cases of the gate, by the number of the run; at least one.
    """
    judged = [(run, cases[run.id]) for run in runs if run.id in cases]
    points = [
        GatePoint(
            run.id, run.time, run.commit, case.value, case.low, case.high,
            run.acceptance is not None,
        )
        for run, case in judged
    ]  # fmt: skip
    measured = [index for index, (_, case) in enumerate(judged) if case.has_value]
    records = [judged[index][1].record for index in measured]
    breaks = {
        position: reason
        for position, (then, now) in enumerate(itertools.pairwise(records), 1)
        if (reason := _why_broken(now, then))
    }
    steps = []
    for start, end in itertools.pairwise([0, *breaks, len(records)]):
        for position, before, after in _levels(records[start:end]):
            index = measured[start + position]
            point = points[index]
            steps.append(LevelStep(index, point.run, point.time, point.commit, before, after))
    run, latest = judged[-1]
    return GateSeries(
        latest.candidate, latest.metric, latest.limit, points, steps,
        {measured[position]: reason for position, reason in breaks.items()}, run.profile,
    )  # fmt: skip


def _why_broken(now: Record, then: Record) -> str:
    """Return why two runs of a gate cannot be on one level; empty if they can."""
    reason = incomparable(now, then)
    if reason or now.items is None or then.items is None:
        return reason
    return "" if now.items.origin == then.items.origin else "the protocol differs"


def _levels(records: Sequence[Record]) -> Iterator[tuple[int, float, float]]:
    """Yield the position of each step, and the means of the values before and after it."""
    positions = positions_of_steps(records, FEW_VALUES)
    levels = [
        statistics.fmean(record.value for record in records[start:end])
        for start, end in itertools.pairwise([0, *positions, len(records)])
        if end > start
    ]
    yield from zip(positions, levels, levels[1:], strict=False)


def positions_of_steps(records: Sequence[Record], min_count: int = 2) -> list[int]:
    """Return the positions at which the values of a gate step to another level.

    Args:
        records: with finite values, the oldest first.
        min_count: smallest number of values that the penalty of a step assumes.
    """
    values = [record.value for record in records]
    return fit_steps(values, standard_errors(records), min_count=min_count)


def standard_errors(records: Sequence[Record]) -> list[float]:
    """Return the standard error of each value, apart from errors that all runs share.

    Runs on the same items share the error of the choice of items. What is left is at most the
    standard error of the paired difference to the first run, which is used. The first run gets the
    median of the others.
    """
    if any(record.metric not in METRICS for record in records):
        # of a package that is not installed any more
        return [record.standard_error for record in records]
    errors = [_standard_error(record, records[0]) for record in records]
    if len(errors) > 1 and pairing(records[0], records[0])[0]:
        errors[0] = statistics.median(errors[1:])
    return errors


def _standard_error(record: Record, first: Record) -> float:
    if METRICS[record.metric].timed:
        return math.hypot(record.standard_error, TIMING_NOISE * record.value)
    if not pairing(record, first)[0]:
        return record.standard_error
    items = record.items
    rise = (items.values.astype(float) - first.items.values) * items.sizes
    sums = ClusterSums(
        np.bincount(items.documents, rise), np.bincount(items.documents, items.sizes)
    )
    if sums.cluster_count == 1:
        return record.standard_error
    return sums.standard_error
