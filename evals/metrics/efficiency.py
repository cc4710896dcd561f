"""What compression gains: bytes, time, and one score that weighs them against the task."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.reading import Reading, not_judged
from compression_gates.evals.statistics.estimate import Estimate, estimate, exact
from compression_gates.evals.statistics.sequential import ratio_of


def compression_ratio(
    baseline_bytes: int, candidate_bytes: int, footprint: Mapping[str, float] = MappingProxyType({})
) -> Reading:
    """Bytes of the baseline's weights on disk over the candidate's. Dense zeros save nothing.

    ``footprint`` says what the candidate's weights are, for the report.
    """
    if not baseline_bytes > 0 or not candidate_bytes > 0:
        raise EvalError(f"weights of {baseline_bytes} and {candidate_bytes} bytes have no ratio")
    return Reading(
        estimate=exact(baseline_bytes / candidate_bytes),
        baseline=float(baseline_bytes),
        candidate=float(candidate_bytes),
        facts=dict(footprint),
    )


def speedup(seconds: np.ndarray, untimed: str = "") -> Reading:
    """Median over interleaved pairs of baseline time over candidate time.

    The interval holds at whichever look timing stopped, see :mod:`evals.statistics.sequential`.

    Args:
        seconds: ``(pairs, 2)``, baseline and candidate of each pair.
        untimed: why nothing was timed; the speedup is then not judged.
    """
    if untimed:
        return not_judged(untimed)
    seconds = np.asarray(seconds, dtype=np.float64)
    return Reading(
        estimate=ratio_of(seconds),
        baseline=float(np.median(seconds[:, 0])),
        candidate=float(np.median(seconds[:, 1])),
    )


def weighted_score(
    weights: Mapping[str, float], task: Reading, size: Reading, speed: Reading | None
) -> Reading:
    """Study 001's score ``w_A * A + w_CR * CR + w_IS * IS``.

    Args:
        weights: of ``task`` (A, the task's own score, 0 to 1), ``size`` (CR, the compression
            ratio) and ``speed`` (IS, the speedup).
        task: a drop of the task's score, with the candidate's own score as its level.
        size: a compression ratio.
        speed: a speedup, or None where it has no weight.

    Where a part that has a weight was not judged, the score is not judged either.

    The score is of the candidate alone, so its A has the interval of the candidate's own level,
    not that of the paired drop. The parts are independent, so half widths add in squares. The
    baseline's CR and IS are 1.

    Raises:
        ValueError: the task is weighed and has no level.
    """
    for name, part in (("task", task), ("speed", speed)):
        if weights[name] and part.not_judged:
            return not_judged(part.not_judged)
    given = {"task": task.level, "size": size.estimate, "speed": speed and speed.estimate}
    parts: dict[str, Estimate] = {name: part for name, part in given.items() if weights[name]}
    if None in parts.values():
        raise ValueError("a weighted score needs the candidate's own level of the task")
    value = sum(weights[name] * part.value for name, part in parts.items())

    def bounds(level: float) -> tuple[float, float]:
        ends = {n: part.bounds(level) if part.bounds else (part.value,) * 2
                for n, part in parts.items()}  # fmt: skip
        below = math.hypot(*(weights[n] * (parts[n].value - low) for n, (low, _) in ends.items()))
        above = math.hypot(*(weights[n] * (high - parts[n].value) for n, (_, high) in ends.items()))
        return value - below, value + above

    counted = parts.get("task") or max(parts.values(), key=lambda part: part.n)
    found = estimate(value, bounds, counted.n, counted.clusters)
    unreliable = next((part.unreliable for part in parts.values() if part.unreliable), "")
    return Reading(
        estimate=replace(found, unreliable=unreliable),
        baseline=weights["task"] * task.baseline + weights["size"] + weights["speed"],
        candidate=value,
        facts={name: part.value for name, part in parts.items()},
    )


def speedup_needed(
    weights: Mapping[str, float], limit: float, task: Reading, size: Reading
) -> float:
    """The speedup at which :func:`weighted_score` reaches a limit, if speed has a weight."""
    kept = task.baseline - task.estimate.value
    rest = weights["task"] * kept + weights["size"] * size.estimate.value
    return (limit - rest) / weights["speed"]
