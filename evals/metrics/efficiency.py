"""What compression gains: bytes, time, and one score that weighs them against the task."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from evals.errors import EvalError
from evals.estimate import Estimate, estimate, exact
from evals.reading import Reading
from evals.statistics import median_interval


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


def speedup(seconds: np.ndarray, footprint: Mapping[str, float] = MappingProxyType({})) -> Reading:
    """Median over interleaved pairs of baseline time over candidate time.

    Args:
        seconds: ``(pairs, 2)``, baseline and candidate of each pair.
        footprint: what the candidate's weights are, to say whether it is its kernels that ran.
    """
    seconds = np.asarray(seconds, dtype=np.float64)
    return Reading(
        estimate=median_interval(seconds[:, 0] / seconds[:, 1]),
        baseline=float(np.median(seconds[:, 0])),
        candidate=float(np.median(seconds[:, 1])),
        facts={"unpacked": 1.0} if footprint.get("unpacked") else {},
    )


def weighted_score(
    weights: Mapping[str, float], task: Reading, size: Reading, speed: Reading
) -> Reading:
    """Study 001's score ``w_A * A + w_CR * CR + w_IS * IS``.

    Args:
        weights: of ``task`` (A, the task's own score, 0 to 1), ``size`` (CR, the compression
            ratio) and ``speed`` (IS, the speedup).
        task: a drop of the task's score, with the candidate's own score as its level.
        size: a compression ratio.
        speed: a speedup.

    The score is of the candidate alone, so its A has the interval of the candidate's own level,
    not that of the paired drop. The parts are independent, so half widths add in squares. The
    baseline's CR and IS are 1.

    Raises:
        ValueError: the task is weighed and has no level.
    """
    given = {"task": task.level, "size": size.estimate, "speed": speed.estimate}
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

    found = estimate(value, bounds, task.estimate.n, task.estimate.clusters)
    unreliable = next((part.unreliable for part in parts.values() if part.unreliable), "")
    return Reading(
        estimate=replace(found, unreliable=unreliable),
        baseline=weights["task"] * task.baseline + weights["size"] + weights["speed"],
        candidate=value,
        facts={name: part.value for name, part in parts.items()},
    )
