"""Generated texts that are empty."""

from compression_gates.evals.metrics.generations import generation_metric, new_events
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.metrics.units import PERCENT


def empty_generations(baseline: Scored, candidate: Scored, role: str) -> MetricResult:
    """Return the share of texts that are empty, or white space only, where the baseline's is not.

    Args:
        baseline, candidate: what both models generated.
        role: role of the data, for messages.
    """
    sides = baseline["empty"], candidate["empty"]
    return new_events(baseline, candidate, role, sides, "empty", "are empty")


register(generation_metric(
    empty_generations, name="empty_generations", title="empty", label="new empty texts",
    promise="at most {limit} of the generated texts are empty where the baseline's are not",
    unit=PERCENT, order=55, ceiling=1.0, fails_destroyed=False,
))  # fmt: skip
