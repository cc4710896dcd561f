"""Exact match of short answers."""

from compression_gates.evals.metrics.answers import ANSWERED, exact_match, mean_drop
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import PERCENT, POINTS


def exact_match_drop(baseline: Scored | None, candidate: Scored | None) -> Reading:
    """Fall of the share of exactly right answers."""
    return mean_drop(exact_match, baseline, candidate)


register(
    Metric(
        name="exact_match_drop",
        title="EM",
        label="exact match",
        promise="exact match falls by at most {limit}",
        unit=POINTS,
        level_unit=PERCENT,
        function=exact_match_drop,
        scored="answers",
        needs=ANSWERED,
        lm_eval=("exact_match",),
        order=30,
        drop=True,
        of_answers=True,
        protocol_title="answers",
        shows_changes=True,
        ceiling=1.0,
    )
)
