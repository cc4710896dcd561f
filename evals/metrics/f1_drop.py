"""F1 of the words of short answers."""

from compression_gates.evals.metrics.answers import ANSWERED, f1, mean_drop
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import PERCENT, POINTS


def f1_drop(baseline: Scored | None, candidate: Scored | None) -> Reading:
    """Fall of the mean F1 of answers."""
    return mean_drop(f1, baseline, candidate)


register(
    Metric(
        name="f1_drop",
        title="F1",
        promise="F1 falls by at most {limit}",
        unit=POINTS,
        level_unit=PERCENT,
        function=f1_drop,
        scored="answers",
        needs=ANSWERED,
        lm_eval=("f1",),
        order=31,
        drop=True,
        of_answers=True,
        protocol_title="answers",
        ceiling=1.0,
    )
)
