"""ROUGE-1 of continuations against the baseline's own."""

from dataclasses import replace

import numpy as np

from compression_gates.evals.metrics.continuation_agreement import (
    ContinuationMetric,
    distance_result,
    judged_if_confident,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.metrics.rouge1_drop import rouge1
from compression_gates.evals.metrics.units import PERCENT, POINTS
from compression_gates.evals.statistics.item_values import SCORE_CHANGE


@judged_if_confident
def continuation_rouge1_drop(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return 1 minus the mean ROUGE-1 of the candidate's continuations against the baseline's.

    The baseline's ROUGE-1 against itself is 1.
    """
    pairs = zip(baseline["continuations"], candidate["continuations"], strict=True)
    scores = np.array(
        [1.0 if before == after else rouge1(str(before), str(after)) for before, after in pairs]
    )
    result = distance_result(baseline, candidate, SCORE_CHANGE, 1 - scores)
    return replace(result, baseline=1.0, candidate=1.0 - result.candidate)


register(ContinuationMetric(
    name="continuation_rouge1_drop", title="cont. ROUGE-1", label="ROUGE-1 of continuations",
    promise="ROUGE-1 of continuations against the baseline's own is at most {limit} below 100%",
    unit=POINTS, level_unit=PERCENT, function=continuation_rouge1_drop, order=53, drop=True,
))  # fmt: skip
