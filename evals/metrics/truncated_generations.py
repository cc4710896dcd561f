"""Generated texts that do not end."""

from compression_gates.evals.metrics.generations import (
    generation_metric,
    never_ends,
    new_events,
    truncated_texts,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.metrics.units import PERCENT


def truncated_generations(baseline: Scored, candidate: Scored, role: str) -> MetricResult:
    """Return the share of texts that reach the limit of new tokens where the baseline's text ends
    before it. Continuations are left out, because most of them are cut.

    Args:
        baseline, candidate: what both models generated.
        role: role of the data, for messages.
    """
    sides = truncated_texts(baseline), truncated_texts(candidate)
    return new_events(baseline, candidate, role, sides, "truncated", never_ends(candidate))


register(generation_metric(
    truncated_generations, roles=("answers", "summaries"), name="truncated_generations",
    title="endless", label="endless texts",
    promise="at most {limit} of the generated texts do not end where the baseline's do",
    unit=PERCENT, order=56, ceiling=1.0,
))  # fmt: skip
