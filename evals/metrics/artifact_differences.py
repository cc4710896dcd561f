"""Differences between two checkpoints that need not affect any score."""

import math
from collections.abc import Mapping

from compression_gates.evals.checkpoints.findings import Severity
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, not_judged
from compression_gates.evals.metrics.units import COUNT
from compression_gates.evals.scores import Pair
from compression_gates.evals.statistics.estimate import exact


def artifact_differences(pair: Pair, weights: Mapping[str, float]) -> MetricResult:
    """Return the number of differences that break plain use of the candidate; not judged without
    checkpoints, as for a log."""
    if pair.comparison is None:
        return not_judged("there are no checkpoints to compare")
    differences = pair.comparison.of(Severity.FAILED)
    count = float(len(differences))
    return MetricResult(exact(count), math.nan, count, reasons=tuple(differences))


register(Metric(
    name="artifact_differences", title="artifact", label="breaking difference",
    promise="at most {limit} differences between the checkpoints break plain use", unit=COUNT,
    function=artifact_differences, order=0, counted="", always_limit=0.0,
))  # fmt: skip
