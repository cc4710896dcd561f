"""Share of a continuation that follows the first difference."""

import numpy as np

from compression_gates.evals.metrics.continuation_agreement import (
    ContinuationMetric,
    common_prefix_lengths,
    distance_result,
    judged_if_confident,
    longer_lengths,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.statistics.item_values import SCORE_CHANGE


@judged_if_confident
def continuation_parting(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the mean share of a continuation that follows the first difference.

    ``1 - (tokens before the first difference) / (tokens of the longer continuation)``: 0 if both
    are identical, 1 if they differ in the first token.
    """
    prefix = common_prefix_lengths(baseline["tokens"], candidate["tokens"])
    lengths = longer_lengths(baseline["tokens"], candidate["tokens"])
    return distance_result(
        baseline,
        candidate,
        SCORE_CHANGE,
        1 - prefix / np.maximum(lengths, 1),
        facts={
            "tokens_until_parting": float(prefix.mean()),
            "tokens_of_baseline": float((baseline["tokens"] >= 0).sum(axis=1).mean()),
            "identical": float((prefix == lengths).mean()),
        },
    )


register(ContinuationMetric(
    name="continuation_parting", title="parting",
    promise="at most {limit} of a continuation follows the first difference",
    function=continuation_parting, order=52,
))  # fmt: skip
