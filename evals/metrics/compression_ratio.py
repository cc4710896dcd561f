"""What compression saves: bytes on disk."""

from collections.abc import Mapping

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.metric import EVERY_MODEL, NO_WEIGHTS, Metric
from compression_gates.evals.metrics.reading import Reading
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import TIMES, Unit
from compression_gates.evals.scores import Pair
from compression_gates.evals.statistics.estimate import exact

LARGEST_RATIO = 32.0
"""Of float32 weights in one bit each."""
SMALLEST_RATIO = 0.5


def compression_ratio(
    baseline_bytes: int, candidate_bytes: int, footprint: Mapping[str, float] = NO_WEIGHTS
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


def ratio_of_pair(pair: Pair, weights: Mapping[str, float] = NO_WEIGHTS) -> Reading:
    """The compression ratio of a pair."""
    sides = pair.baseline.weight_bytes, pair.candidate.weight_bytes
    return compression_ratio(*sides, pair.candidate.footprint)


def ratio_problem(limit: float) -> str:
    """Why a limit cannot be meant, or nothing."""
    if limit > LARGEST_RATIO:
        return (
            f"{limit:g} asks for weights {limit:g} times smaller, and one bit in place of 32 makes "
            f"them {LARGEST_RATIO:g} times smaller; "
            f"{limit:g} % of the baseline's is {limit / 100:.2f}"
        )
    if limit <= SMALLEST_RATIO:
        return (
            f"{limit:g} lets the weights be {1 / limit:g} times as large as the baseline's; for "
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
