"""Share of the predictions that flip."""

import numpy as np

from compression_gates.evals.metrics.classification import describe_items, predictions
from compression_gates.evals.metrics.metric import CHOICES, Metric
from compression_gates.evals.metrics.prediction_divergence import NEEDS_CLASSES, check_same_classes
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.regressions import worst_items
from compression_gates.evals.metrics.result import MetricResult, Scored, at_chance, check_paired
from compression_gates.evals.metrics.units import PERCENT
from compression_gates.evals.statistics.item_values import PROPORTION, ItemValues
from compression_gates.evals.statistics.proportions import clustered_proportion


def flips(baseline: Scored, candidate: Scored) -> MetricResult:
    """Return the share of items whose predicted class changes, right or wrong (Dutta et al. 2024).

    The accuracy can stay the same although many predictions change.
    """
    check_paired(baseline, candidate)
    check_same_classes(baseline, candidate)
    before, after = predictions(baseline), predictions(candidate)
    is_constant = len(before) > 1 and (before == before[0]).all()
    flipped = np.where((before == -1) | (after == -1), np.nan, before != after)
    return MetricResult(
        estimate=clustered_proportion(flipped, baseline.data.documents),
        baseline=0.0,
        candidate=float(flipped.mean()),
        worst=worst_items(flipped, describe_items(baseline, candidate)),
        not_judged=at_chance("the same class for every text") if is_constant else "",
        items=ItemValues.of(PROPORTION, flipped, baseline.data.documents, baseline),
    )


register(Metric(
    name="flips", title="flips", promise="at most {limit} of the predictions flip", unit=PERCENT,
    function=flips, scored="predicted", needs=NEEDS_CLASSES, lm_eval=(CHOICES,), order=41,
    is_distance=True, of_answers=True, ceiling=1.0,
))  # fmt: skip
