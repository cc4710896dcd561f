"""Share of the continuations that change."""

from compression_gates.evals.metrics.continuation_agreement import (
    ContinuationMetric,
    common_prefix_lengths,
    distance_result,
    judged_if_confident,
    longer_lengths,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.statistics.item_values import PROPORTION


@judged_if_confident
def continuation_changes(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the share of prompts whose continuations differ in any token.

    Among the worst items, those that differ earlier come first.
    """
    prefix = common_prefix_lengths(baseline["tokens"], candidate["tokens"])
    changed = prefix < longer_lengths(baseline["tokens"], candidate["tokens"])
    return distance_result(
        baseline,
        candidate,
        PROPORTION,
        changed.astype(float),
        severity=1 + 1 / (1 + prefix),
        facts={"tokens_until_parting": float(prefix.mean())},
    )


register(ContinuationMetric(
    name="continuation_changes", title="continuations", label="changed continuations",
    promise="at most {limit} of the continuations change", function=continuation_changes, order=51,
))  # fmt: skip
