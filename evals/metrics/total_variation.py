"""Total variation distance between two predicted distributions, which is the share of tokens that
speculative decoding rejects."""

from compression_gates.evals.metrics.prediction_divergence import TV, Divergence, mean_divergence
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored
from compression_gates.evals.metrics.units import PERCENT


def total_variation(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the mean total variation distance of the candidate's predictions.

    For the distributions p and q of a next token or class it is
    ``sum_v |p_v - q_v| / 2 = 1 - sum_v min(p_v, q_v)``, in [0, 1].

    If one of the two models drafts tokens for the other, ``1 - TV`` is the probability that
    speculative decoding accepts a token, and its mean is the acceptance rate (Leviathan et al.
    2023, section 3.2, Theorem 3.5 and Corollary 3.6).
    """
    return mean_divergence(baseline, candidate, TV, 1.0, "of the probability")


register(Divergence(
    name="total_variation", title="TV", label="total variation distance", unit=PERCENT,
    promise="at most {limit} of the probability of a prediction moves to others",
    function=total_variation, order=22.5, ceiling=1.0,
))  # fmt: skip
