"""KL divergence from the baseline's predictions to the candidate's."""

import math

from compression_gates.evals.metrics.divergence import DIVERGING, KL_FORWARD, mean_divergence
from compression_gates.evals.metrics.metric import CHOICES, Metric
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import NATS


def kl_from_baseline(baseline: Scored, candidate: Scored) -> Reading:
    """Mean ``KL(baseline || candidate)``: large where the candidate all but rules out what the
    baseline finds likely."""
    return mean_divergence(baseline, candidate, KL_FORWARD, math.inf)


register(
    Metric(
        name="kl_from_baseline",
        title="KL from",
        label="KL divergence from the baseline",
        promise="KL(baseline || candidate) is at most {limit}",
        unit=NATS,
        function=kl_from_baseline,
        scored="predicted",
        needs=DIVERGING,
        lm_eval=(CHOICES,),
        order=21,
        counted="documents",
        is_distance=True,
    )
)
