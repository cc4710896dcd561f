"""The size of a gate's sample, and the size that a proof takes, in the unit that is counted."""

from typing import TYPE_CHECKING

from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.statistics.estimate import DOCUMENTS, Estimate
from compression_gates.evals.statistics.power import (
    DetectableEffect,
    detectable_effect_like,
    needed_size,
    scaled_effect,
)

if TYPE_CHECKING:
    from compression_gates.evals.gates.gate import Verdict


def sample_size(metric: Metric, sampled: "Estimate | Verdict") -> tuple[int, str]:
    """Return the size of a sample, and the unit that the statistics of the metric count, such as
    ``items``, ``documents`` or, of a single document, ``windows``."""
    if metric.counted == DOCUMENTS:
        return sampled.clusters, sampled.unit
    return sampled.n, metric.counted


def effect_like(metric: Metric, result: MetricResult, unchanged: bool = False) -> DetectableEffect:
    """Return the minimum detectable effect of samples whose documents are like those of a measured
    pair.

    Args:
        metric: the metric.
        result: of the pair, which was sampled. Of a gain, the effect is that of its negative.
        unchanged: whether the true value is assumed to be 0, as in an unchanged candidate;
            otherwise it is the estimate.
    """
    estimate, items = result.estimate, result.items
    size, _ = sample_size(metric, estimate)
    if metric.at_most and items is not None:
        return detectable_effect_like(items, unchanged, size, metric.from_items or float)
    estimate = estimate if metric.at_most else -estimate
    return scaled_effect(estimate, size, 0.0 if unchanged else estimate.value)


def needed_to_settle(metric: Metric, result: MetricResult, limit: float) -> int:
    """Return about how large a sample proves that the limit is kept, with the power of a plan, if
    the true value is the estimate.

    Returns:
        0 if the estimate does not keep the limit, if the size is too large, or if it is not known,
        because nothing was sampled or the interval depends on several samples.
    """
    estimate = result.estimate if metric.at_most else -result.estimate
    distance = (limit if metric.at_most else -limit) - estimate.value
    is_sampled = metric.counted and estimate.bounds is not None and estimate.samples == 1
    if not is_sampled or estimate.unreliable or not distance > 0:
        return 0
    effect = effect_like(metric, result)
    size, _ = sample_size(metric, estimate)
    needed = needed_size(lambda number: effect(number) - estimate.value, distance)
    return max(needed, size + 1) if needed > 0 else 0
