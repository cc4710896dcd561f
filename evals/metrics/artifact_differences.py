"""Differences between two checkpoints that no score has to show."""

import math
from collections.abc import Mapping

from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.reading import Reading, not_judged
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import COUNT
from compression_gates.evals.scores import Pair
from compression_gates.evals.statistics.estimate import exact


def artifact_differences(pair: Pair, weights: Mapping[str, float]) -> Reading:
    """How many differences between the checkpoints break plain use of the candidate.

    Not judged where there is no checkpoint, as beside a log.
    """
    if pair.comparison is None:
        return not_judged("there are no checkpoints to compare")
    broken = pair.comparison.of(Severity.FAILED)
    return Reading(exact(float(len(broken))), math.nan, float(len(broken)), reasons=tuple(broken))


register(Metric(
    name="artifact_differences", title="artifact", label="differences that break plain use",
    promise="at most {limit} differences between the checkpoints break plain use", unit=COUNT,
    function=artifact_differences, order=0, counted="", always_limit=0.0,
))  # fmt: skip
