"""Compression ratio on disk."""

from collections.abc import Mapping

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.metric import EVERY_MODEL, NO_WEIGHTS, Metric
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.metrics.units import TIMES, Unit
from compression_gates.evals.scores import Pair
from compression_gates.evals.statistics.estimate import exact

LARGEST_RATIO = 32.0
"""The ratio of float32 weights that are stored in one bit each."""
SMALLEST_RATIO = 0.5


def compression_ratio(
    baseline_bytes: int, candidate_bytes: int, footprint: Mapping[str, float] = NO_WEIGHTS
) -> MetricResult:
    """Return the bytes of the baseline's weights on disk divided by the candidate's.

    Args:
        baseline_bytes, candidate_bytes: sizes of the weight files; zeros in a dense file count.
        footprint: further numbers about the candidate's weights, for the report.

    Raises:
        EvalError: a size is 0.
    """
    if not baseline_bytes > 0 or not candidate_bytes > 0:
        raise EvalError(
            f"the compression ratio of {baseline_bytes} to {candidate_bytes} bytes is undefined"
        )
    return MetricResult(
        estimate=exact(baseline_bytes / candidate_bytes),
        baseline=float(baseline_bytes),
        candidate=float(candidate_bytes),
        facts=dict(footprint),
    )


def ratio_of_pair(pair: Pair, weights: Mapping[str, float] = NO_WEIGHTS) -> MetricResult:
    """Return the compression ratio of a pair."""
    return compression_ratio(
        pair.baseline.weight_bytes, pair.candidate.weight_bytes, pair.candidate.footprint
    )


def ratio_problem(limit: float) -> str:
    """Return why a limit is probably a mistake, or an empty string."""
    if limit > LARGEST_RATIO:
        return (
            f"{limit:g} requires weights {limit:g} times smaller, but even one bit in place of 32 "
            f"makes them only {LARGEST_RATIO:g} times smaller; "
            f"{limit:g} % of the baseline's is {limit / 100:.2f}"
        )
    if limit <= SMALLEST_RATIO:
        return (
            f"{limit:g} allows weights {1 / limit:g} times as large as the baseline's; for "
            f"{limit:.3g} of its size give {1 / limit:.3g}"
        )
    return ""


register(Metric(
    name="compression_ratio", title="size", label="compression ratio",
    promise="the compression ratio on disk is at least {limit}", unit=TIMES,
    level_unit=Unit(" bytes", digits=0, flags=","),
    table_unit=Unit(" MiB", digits=2, scale=2**-20), function=ratio_of_pair, needs=EVERY_MODEL,
    order=60, at_most=False, quality=False, neutral=1.0, check_limit=ratio_problem,
))  # fmt: skip
