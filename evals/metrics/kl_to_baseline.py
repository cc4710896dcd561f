"""KL divergence from the candidate's predictions to the baseline's."""

import math

from compression_gates.evals.metrics.divergence import DIVERGING, KL_BACKWARD, mean_divergence
from compression_gates.evals.metrics.metric import CHOICES, Metric
from compression_gates.evals.metrics.reading import Reading, Scored
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import NATS


def kl_to_baseline(baseline: Scored, candidate: Scored) -> Reading:
    """Mean ``KL(candidate || baseline)``: large where the candidate finds likely what the baseline
    all but rules out."""
    return mean_divergence(baseline, candidate, KL_BACKWARD, math.inf)


register(
    Metric(
        name="kl_to_baseline",
        title="KL to",
        label="KL divergence to the baseline",
        promise="KL(candidate || baseline) is at most {limit}",
        unit=NATS,
        function=kl_to_baseline,
        scored="predicted",
        needs=DIVERGING,
        lm_eval=(CHOICES,),
        order=22,
        counted="documents",
        is_distance=True,
    )
)
