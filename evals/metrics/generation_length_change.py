"""Length of generated texts, in both directions."""

import math
from dataclasses import replace

import numpy as np

from compression_gates.evals.metrics.generations import (
    MOST,
    baseline_defect,
    describe_texts,
    finite_values,
    generation_metric,
    never_ends,
    truncated_texts,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.result import MetricResult, Scored, not_judged
from compression_gates.evals.metrics.units import PERCENT
from compression_gates.evals.statistics.estimate import Estimate, estimate
from compression_gates.evals.statistics.ratios import ratio_of_means


def relative_change(ratio: float) -> float:
    """Return ``exp(|log(ratio)|) - 1``, which is the same for a ratio and its inverse.

    >>> relative_change(1.5), relative_change(1 / 1.5)
    (0.5, 0.5)
    """
    if math.isnan(ratio):
        return math.nan
    return max(ratio, 1 / ratio if ratio > 0 else math.inf) - 1


def change_of(ratio: Estimate) -> Estimate:
    """Return the relative change of a ratio in either direction, with its interval."""

    def bounds(level: float) -> tuple[float, float]:
        low, high = ratio.bounds(level)
        if math.isinf(low):  # there is no interval
            return low, high
        ends = sorted((relative_change(max(low, 0.0)), relative_change(high)))
        return (0.0 if low <= 1 <= high else ends[0]), ends[1]

    value = relative_change(ratio.value)
    change = estimate(value, bounds, ratio.n, ratio.clusters, ratio.confidence_level)
    return replace(change, unreliable=ratio.unreliable)


def lengths(scored: Scored) -> np.ndarray:
    """Return the number of tokens of each text, with those that end it, ``(prompts,)``."""
    return (scored["tokens"] >= 0).sum(axis=1).astype(np.float64)


def generation_length_change(baseline: Scored, candidate: Scored, role: str) -> MetricResult:
    """Return by how much the mean number of generated tokens differs from the baseline's.

    With the ratio r of the candidate's mean to the baseline's it is ``max(r, 1 / r) - 1``: texts of
    twice and of half the length both have 100 %.

    If most texts of the baseline reach the limit of new tokens, it is not judged, unless a change
    is proven: texts of which both models reach the limit have the same length, whatever the models
    would generate after it.

    Args:
        baseline, candidate: what both models generated.
        role: role of the data, for messages.
    """
    before = lengths(baseline)
    after = finite_values(baseline, candidate, lengths(candidate))
    change = change_of(ratio_of_means(after, before, np.asarray(baseline.data.documents)))
    truncated = truncated_texts(baseline)
    if truncated.mean() > MOST and change.low <= 0:
        return not_judged(baseline_defect(truncated, role, never_ends(baseline)))
    means = float(before.mean()), float(after.mean())
    return MetricResult(
        estimate=change,
        baseline=0.0,
        candidate=change.value,
        worst=worst_items(
            np.abs(np.log(after / before)), describe_texts(baseline, candidate)
        ),
        facts={"tokens_baseline": means[0], "tokens_candidate": means[1]},
        reasons=(
            f"the {role} have {means[1]:.1f} tokens on average, and the baseline's {means[0]:.1f}",
        ),
    )  # fmt: skip


register(generation_metric(
    generation_length_change, name="generation_length_change", title="length",
    label="change of the length of generated texts", unit=PERCENT, order=54,
    is_distance=True,
    promise="generated texts are at most {limit} longer, or shorter by the same factor",
))  # fmt: skip
