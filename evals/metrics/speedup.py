"""Speedup of a forward pass, and what all gates on a speed share."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from compression_gates.evals.metrics.metric import EVERY_MODEL, NO_WEIGHTS, Metric
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, not_judged
from compression_gates.evals.metrics.units import TIMES, Unit
from compression_gates.evals.scores import EngineRun, Pair
from compression_gates.evals.scoring.protocols import FORWARD
from compression_gates.evals.statistics.sequential import median_ratio

LARGEST_SPEEDUP, SMALLEST_SPEEDUP = 20.0, 0.1
PERCENTILES = (50, 90, 99)
MILLISECONDS = Unit(" ms", digits=2, scale=1e3)


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


def timed_result(run: EngineRun, names: Mapping[str, str]) -> MetricResult:
    """Return the speedup of a run, with percentiles of all its times.

    Args:
        run: what was measured; ``seconds`` are judged.
        names: descriptions of the arrays of times.
    """
    if run.reason:
        return not_judged(run.reason)
    result = speedup(run.arrays["seconds"])
    facts: dict[str, float] = {}
    evidence = []
    for array, name in names.items():
        percentiles = np.percentile(run.arrays[array], PERCENTILES, axis=0)
        for side, values in zip(("baseline", "candidate"), percentiles.T, strict=True):
            for percentile, value in zip(PERCENTILES, values, strict=True):
                facts[f"{array}_{side}_p{percentile}"] = float(value)
            shown = ", ".join(map(MILLISECONDS, values))
            evidence.append(f"{name}: {side} {shown} (percentiles 50, 90, 99)")
        ratios = run.arrays[array][:, 0] / run.arrays[array][:, 1]
        facts[f"{array}_speedup"] = float(np.median(ratios))
    return replace(result, facts=facts, kernel=run.kernel, evidence=tuple(evidence))


def speedup_of_pair(pair: Pair, weights: Mapping[str, float] = NO_WEIGHTS) -> MetricResult:
    """Return the speedup of a pair."""
    names = {"seconds": "a batch of 1,024 tokens", "single": "a batch of one row"}
    return timed_result(pair.run(FORWARD), names)


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
    unit=TIMES, level_unit=MILLISECONDS, function=speedup_of_pair,
    needs=EVERY_MODEL, order=61, at_most=False, quality=False, counted="timed pairs",
    workload=FORWARD, sequential=True, neutral=1.0, check_limit=speedup_problem,
))  # fmt: skip
