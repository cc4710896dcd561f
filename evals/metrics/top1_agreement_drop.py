"""How often the two find the same token most likely."""

from dataclasses import replace

import numpy as np

from compression_gates.evals.metrics.divergence import PREDICTED, mean_of_tokens
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.reading import Reading, Scored, check_paired
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.units import PERCENT, POINTS


def top1_agreement_drop(baseline: Scored, candidate: Scored) -> Reading:
    """By how much the share of tokens at which both find the same next token most likely falls
    short of 1, which is that of the baseline with itself."""
    check_paired(baseline, candidate)
    changed = np.where(np.isnan(candidate["js"]), np.nan, 1.0 - candidate["agree"])
    found = mean_of_tokens(baseline, candidate, changed, 1.0, "of the tokens")
    if found.not_judged:
        return found
    return replace(found, baseline=1.0, candidate=1.0 - found.candidate)


register(Metric(
    name="top1_agreement_drop", title="top-1", label="top-1 agreement",
    promise="top-1 agreement with the baseline is at most {limit} below 100%", unit=POINTS,
    level_unit=PERCENT, function=top1_agreement_drop, scored="predicted", needs=PREDICTED,
    order=23, drop=True, counted="documents", is_distance=True, ceiling=1.0,
))  # fmt: skip
