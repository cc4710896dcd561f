"""How often both models predict the same most likely token."""

from dataclasses import replace

import numpy as np

from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.prediction_divergence import NEEDS_TOKENS, token_mean_result
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, Scored, check_paired
from compression_gates.evals.metrics.units import PERCENT, POINTS


def top1_agreement_drop(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return 1 minus the share of tokens at which both models predict the same most likely token.

    The baseline's agreement with itself is 1.
    """
    check_paired(baseline, candidate)
    changed = np.where(np.isnan(candidate["js"]), np.nan, 1.0 - candidate["agree"])
    result = token_mean_result(baseline, candidate, changed, 1.0, "of the tokens")
    if result.not_judged:
        return result
    return replace(result, baseline=1.0, candidate=1.0 - result.candidate)


register(Metric(
    name="top1_agreement_drop", title="top-1", label="top-1 agreement",
    promise="top-1 agreement with the baseline is at most {limit} below 100%", unit=POINTS,
    level_unit=PERCENT, function=top1_agreement_drop, scored="predicted", needs=NEEDS_TOKENS,
    order=23, drop=True, counted="documents", is_distance=True, ceiling=1.0,
))  # fmt: skip
