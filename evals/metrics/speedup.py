"""Speedup of a forward pass."""

from collections.abc import Mapping

import numpy as np

from compression_gates.evals.metrics.metric import EVERY_MODEL, Metric
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.metrics.units import TIMES, Unit
from compression_gates.evals.scores import Pair
from compression_gates.evals.statistics.sequential import median_ratio

LARGEST_SPEEDUP, SMALLEST_SPEEDUP = 20.0, 0.1


def speedup(seconds: np.ndarray) -> MetricResult:
    """Return the median over interleaved pairs of the baseline's time over the candidate's.

    The interval is valid at whichever look the timing stopped; see
    :mod:`evals.statistics.sequential`.

    Args:
        seconds: ``(pairs, 2)``, baseline and candidate of each pair.
    """
    seconds = np.asarray(seconds, dtype=np.float64)
    return MetricResult(
        estimate=median_ratio(seconds),
        baseline=float(np.median(seconds[:, 0])),
        candidate=float(np.median(seconds[:, 1])),
    )


def speedup_of_pair(pair: Pair, weights: Mapping[str, float]) -> MetricResult:
    """Return the speedup of a pair."""
    return pair.speed


def speedup_problem(limit: float) -> str:
    """Return why a limit is probably a mistake, or an empty string."""
    if limit > LARGEST_SPEEDUP:
        return (
            f"{limit:g} requires a forward pass {limit:g} times as fast; "
            f"{limit:g} % of the baseline's is {limit / 100:.2f}"
        )
    if limit <= SMALLEST_SPEEDUP:
        return (
            f"{limit:g} allows a forward pass that takes {1 / limit:g} times as long; for at most "
            "20 % slower give 0.8"
        )
    return ""


register(Metric(
    name="speedup", title="speed", promise="a forward pass is at least {limit} as fast",
    unit=TIMES, level_unit=Unit(" ms", digits=2, scale=1e3), function=speedup_of_pair,
    needs=EVERY_MODEL, order=61, at_most=False, quality=False, counted="timed pairs", timed=True,
    sequential=True, neutral=1.0, check_limit=speedup_problem,
))  # fmt: skip
