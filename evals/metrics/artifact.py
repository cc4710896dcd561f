"""Differences between two checkpoints that no score has to show."""

import math

from compression_gates.evals.checkpoints.findings import CheckpointComparison, Severity
from compression_gates.evals.metrics.reading import Reading, not_judged
from compression_gates.evals.statistics.estimate import exact


def artifact_differences(comparison: CheckpointComparison | None) -> Reading:
    """How many differences between the checkpoints break plain use of the candidate.

    ``comparison`` is None where there is no checkpoint, as beside a log; it is not judged then.
    """
    if comparison is None:
        return not_judged("there are no checkpoints to compare")
    broken = comparison.of(Severity.FAILED)
    return Reading(exact(float(len(broken))), math.nan, float(len(broken)), reasons=tuple(broken))
