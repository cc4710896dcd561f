"""Jensen-Shannon divergence of what the two predict."""

import math

from compression_gates.evals.metrics.divergence import DIVERGING, JS, mean_divergence
from compression_gates.evals.metrics.metric import CHOICES, Metric
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import NATS

LARGEST = math.log(2)
"""No Jensen-Shannon divergence is larger, in nats."""


def js_divergence(baseline: Scored, candidate: Scored) -> Reading:
    """Mean Jensen-Shannon divergence of the candidate's predictions from the baseline's."""
    return mean_divergence(baseline, candidate, JS, LARGEST)


register(
    Metric(
        name="js_divergence",
        title="JS",
        label="JS divergence",
        promise="predictions diverge by at most {limit} (Jensen-Shannon)",
        unit=NATS,
        function=js_divergence,
        scored="predicted",
        needs=DIVERGING,
        lm_eval=(CHOICES,),
        order=20,
        counted="documents",
        is_distance=True,
        ceiling=LARGEST,
    )
)
