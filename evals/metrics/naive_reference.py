"""Divergence of a candidate, relative to that of its naive counterpart.

The naive counterpart is the baseline with the same grids, zeros and ranks in each layer, made by
rounding to nearest, magnitude pruning and truncated SVD. A method that uses data should not be
worse. With their mean Jensen-Shannon divergences from the baseline over the same predictions::

    ratio = (JS(candidate) + floor) / (JS(naive) + floor)

The floor, 1e-8 nats or 1e-5 nats in 16 bits, is the size of the differences between two runs of one
model.
"""

import math
from collections.abc import Mapping

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import EXTRACTIVE
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.prediction_divergence import (
    JS,
    NEEDS_CLASSES,
    NEEDS_TOKENS,
    describe_predictions,
    describe_windows,
    divergence_values,
    group_means,
    predicts_tokens,
)
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import Regressions, worst_items
from compression_gates.evals.metrics.result import (
    MetricResult,
    Scored,
    chance_level_tokens,
    not_judged,
)
from compression_gates.evals.metrics.units import TIMES
from compression_gates.evals.scores import PREDICTED, ModelScores, Pair
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.ratios import ratio_of_means

FLOOR, HALF_FLOOR = 1e-8, 1e-5
"""Added to both divergences, in nats; the second for models that compute in 16 bits. Smaller ones
are numerical noise: changing the last digit of 2 % of the logits in bfloat16 causes 3e-6."""
HALVES = ("bfloat16", "float16")
LARGEST_FACTOR = 10.0
PROOF_LEVEL = 0.99
"""Confidence level of the interval, whose lower end decides. A candidate that is as good as its
naive counterpart fails in half of the remaining samples: 0.5 %, and 2.5 % at a level of 95 %."""


def ratio_to_naive(
    values: np.ndarray, naive_values: np.ndarray, documents: np.ndarray, one_document: bool = False
) -> Estimate:
    """Return the ratio of two mean divergences with an interval at :data:`PROOF_LEVEL`.

    Args:
        values, naive_values: ``(n,)``, of the candidate and of its naive counterpart.
        documents: ``(n,)``, the document of each, or its window.
        one_document: whether ``documents`` are windows of one document.
    """
    return ratio_of_means(values, naive_values, documents, one_document, PROOF_LEVEL)


def naive_reference(
    baseline: Scored, candidate: Scored, naive: Scored, treatment: str, floor: float = FLOOR
) -> MetricResult:
    """Return the ratio of the candidate's mean divergence to that of its naive counterpart.

    It is not judged if the baseline is at chance level, if the naive counterpart's predictions are
    not finite, or if there is only one window and hence no interval.

    Args:
        baseline, candidate, naive: the scored data of each model.
        treatment: what was done to the layers of candidate and counterpart, for messages.
        floor: added to both divergences, in nats.
    """
    values, documents = divergence_values(baseline, candidate, JS)
    naive_values, _ = divergence_values(baseline, naive, JS)
    if predicts_tokens(candidate):
        at_chance = chance_level_tokens(baseline, candidate)
        if at_chance is not None:
            return at_chance
    if not np.isfinite(naive_values).all():
        return not_judged("the predictions of its naive counterpart are not finite")
    levels = [float(side.mean(dtype=np.float64)) for side in (values, naive_values)]
    if len(set(documents)) == 1 and math.isfinite(levels[0]):
        return not_judged("a single window or document has no interval")
    one_document = predicts_tokens(candidate) and candidate.is_one_document
    floored = [side.astype(np.float64) + floor for side in (values, naive_values)]
    return MetricResult(
        estimate=ratio_to_naive(*floored, documents, one_document),
        baseline=math.nan,
        candidate=levels[0],
        worst=_worst(candidate, values - naive_values),
        facts={"js": levels[0], "naive_js": levels[1]},
        reasons=(
            f"its divergence from the baseline is {levels[0]:.3g} nats, and that of its naive "
            f"counterpart {levels[1]:.3g} nats ({treatment})",
        ),
    )


def _worst(candidate: Scored, excess: np.ndarray) -> Regressions:
    """Return the items on which the candidate diverges most beyond its naive counterpart."""
    unit = "nats more"
    if predicts_tokens(candidate):
        losses = group_means(excess, candidate["window"])
        return worst_items(losses, describe_windows(candidate, unit))
    return worst_items(excess, describe_predictions(candidate, unit))


def naive_reference_of_pair(pair: Pair, weights: Mapping[str, float]) -> MetricResult:
    """Return the result for a pair; not judged if it has no naive counterpart."""
    naive = pair.naive
    if isinstance(naive, MetricResult):
        return naive
    sides = (pair.baseline, pair.candidate, naive)
    is_half = any(isinstance(s, ModelScores) and s.checkpoint.dtype in HALVES for s in sides)
    scored = (side.get(PREDICTED) for side in sides)
    floor = HALF_FLOOR if is_half else FLOOR
    return naive_reference(*scored, naive.checkpoint.label, floor)


def factor_problem(limit: float) -> str:
    """Return why a limit is probably a mistake, or an empty string."""
    if limit < 1:
        return f"{limit:g} would fail the naive counterpart itself; give at least 1"
    if limit > LARGEST_FACTOR:
        return f"{limit:g} allows {limit:g} times the divergence of the naive counterpart"
    return ""


register(Metric(
    name="naive_reference", title="JS/naive", label="divergence relative to the naive counterpart",
    promise="predictions diverge at most {limit} as much as those of the naive counterpart",
    unit=TIMES, function=naive_reference_of_pair,
    needs={**NEEDS_TOKENS, **NEEDS_CLASSES, EXTRACTIVE: ("answers",)}, order=24,
    counted="documents", needs_naive=True, neutral=1.0, check_limit=factor_problem,
))  # fmt: skip
