"""Power analysis: which limits a sample can prove, and how large it has to be for a given limit.

The *minimum detectable effect* of a gate is the smallest limit that a candidate as assumed is
proven to keep, with a power of 80 %. In that share of the runs, the upper end of the interval is
below::

    centre + (upper end - value) + (end of the one-sided interval at the power - value)

If all values are 0, every sample of such items has the same upper end, and the last term is left
out. The centre is the assumed true value. For a candidate that was measured it is the estimate, and
before a candidate is measured it is 0 for a drift, because an unchanged candidate has none. The
intervals are those of the gates, computed on values that are constructed as assumed. The power that
planned items have in fact is simulated by
`python -m compression_gates.fixtures.experiments.planning_simulation`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from compression_gates.evals.statistics.clusters import ClusterSums
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import (
    MEAN,
    SCORE_CHANGE,
    SERIES,
    ItemValues,
)
from compression_gates.evals.statistics.means import series_of, studentized_of
from compression_gates.evals.statistics.proportions import (
    clustered_proportion,
    clustered_score_change,
)
from compression_gates.evals.statistics.tails import MIN_CLUSTERS

POWER = 0.8
MAX_SIZE = 1_000_000
"""Largest sample that is proposed."""
FLIPS = 0.04
"""Share of the answers that is assumed to flip if no pair was measured."""
_DRAWS = 300
"""Number of simulated samples from which the quantile of the upper end is taken."""
_INTERVALS = {MEAN: studentized_of, SERIES: series_of}

DetectableEffect = Callable[[int], float]
"""Maps the size of a sample to the minimum detectable effect."""


@dataclass(frozen=True)
class PowerAnalysis:
    """What the sample of a gate can prove.

    Attributes:
        limit: of the gate.
        minimum_detectable_effect: the smallest limit that a candidate as assumed is proven to keep
            with a power of :data:`POWER`; infinite if there is none, NaN if nothing is known of the
            values.
        size: of the sample; 0 if it is not known.
        needed: approximate size needed for ``limit``, with as many items per document as now; -1 if
            no size suffices.
        needed_if_shared: the same if all items of a document flip together; 0 if each document has
            one item, or if documents are the unit of the analysis.
        unit: what is counted, such as ``items`` or ``documents``.
        assumes: the assumption about the candidate, in words.
        measured: whether the assumption was measured on a stored pair.
        unreliable: why the sample resolves nothing, if its interval is unreliable or unbounded.
    """

    limit: float
    minimum_detectable_effect: float
    size: int
    needed: int
    needed_if_shared: int = 0
    unit: str = "items"
    assumes: str = ""
    measured: bool = False
    unreliable: str = ""

    @property
    def is_known(self) -> bool:
        return not math.isnan(self.minimum_detectable_effect)

    @property
    def is_sufficient(self) -> bool:
        return self.minimum_detectable_effect <= self.limit


def unknown_power(limit: float, size: int, unit: str, assumes: str) -> PowerAnalysis:
    """Return the analysis of a gate about whose values nothing can be assumed."""
    return PowerAnalysis(limit, math.nan, size, -1, unit=unit, assumes=assumes)


def power_of_sample(
    limit: float,
    size: int,
    effect: DetectableEffect,
    effect_if_shared: DetectableEffect | None = None,
    per_document: int = 1,
    unit: str = "items",
) -> PowerAnalysis:
    """Analyze a sample whose values can be constructed for any size.

    Args:
        limit: of the gate.
        size: of the sample.
        effect: such as :func:`detectable_effect_of_flips`, :func:`detectable_effect_like` or
            :func:`scaled_effect`.
        effect_if_shared: the same if all items of a document flip together.
        per_document: items of a document.
        unit: of the size.
    """
    shared = needed_size(effect_if_shared, limit, per_document) if effect_if_shared else 0
    needed = needed_size(effect, limit, per_document)
    return PowerAnalysis(limit, effect(size), size, needed, shared, unit)


def needed_size(effect: DetectableEffect, limit: float, per_document: int = 1) -> int:
    """Return the size needed for a limit, to within about one percent.

    It is at least :data:`evals.statistics.tails.MIN_CLUSTERS` documents, below which intervals are
    unreliable, and -1 if :data:`MAX_SIZE` does not suffice.
    """
    if not limit > 0:
        return -1
    low, high = 1, MIN_CLUSTERS * per_document
    while not effect(high) <= limit:
        if high >= MAX_SIZE:
            return -1
        low, high = high, min(2 * high, MAX_SIZE)
    low = max(low, MIN_CLUSTERS * per_document - 1)
    while high - low > max(low // 100, 1):
        middle = (low + high) // 2
        low, high = (low, middle) if effect(middle) <= limit else (middle, high)
    return high


def minimum_detectable_effect(
    estimate: Estimate, power: float = POWER, varies: bool = True
) -> float:
    """Return the distance above the true value that the upper end of an interval does not exceed
    with a probability of ``power``; infinite if the interval is unreliable.

    Args:
        estimate: of the sample.
        power: the probability.
        varies: whether the estimate varies between samples.
    """
    if estimate.unreliable or not math.isfinite(estimate.high):
        return math.inf
    upper = estimate.high - estimate.value
    beyond = estimate.bounds(2 * power - 1)[1] - estimate.value if varies else 0.0
    return upper + beyond


@lru_cache(maxsize=1 << 12)  # the same for every baseline on the same data
def detectable_effect_of_flips(
    items: int, flips: float, per_document: int = 1, shared: bool = False, distance: bool = False
) -> float:
    """Return the minimum detectable effect of items of which a share flips, half in each direction.

    Args:
        items: number of items.
        flips: share of the items that flips.
        per_document: items of a document.
        shared: whether all items of a document flip together; otherwise they flip independently.
        distance: whether the gate limits the share of flips itself, not the drop of right answers.
    """
    documents = max(items // per_document, 2)
    if per_document > 1 and not shared:
        return _effect_of_independent_flips(documents, per_document, flips, distance)
    values = np.zeros(documents)
    if distance:
        values[: math.ceil(flips * documents)] = 1.0
    else:
        half = min(math.ceil(flips / 2 * documents), documents // 2)
        values[:half], values[half : 2 * half] = 1.0, -1.0
    interval = clustered_proportion if distance else clustered_score_change
    repeats = per_document if shared else 1
    estimate = interval(np.repeat(values, repeats), np.repeat(np.arange(documents), repeats))
    return minimum_detectable_effect(estimate) + (estimate.value if distance else 0.0)


def _effect_of_independent_flips(
    documents: int, per_document: int, flips: float, distance: bool
) -> float:
    """Return the minimum detectable effect of documents whose items flip independently.

    The width of the interval depends on which items of a document flip, so upper ends are
    simulated.
    """
    interval = clustered_proportion if distance else clustered_score_change
    clusters = np.repeat(np.arange(documents), per_document)
    generator = np.random.default_rng(0)
    ends = []
    for _ in range(_DRAWS):
        uniform = generator.random(len(clusters))
        values = (uniform < flips / 2).astype(float) - (uniform > 1 - flips / 2)
        estimate = interval(np.abs(values) if distance else values, clusters)
        ends.append(math.inf if estimate.unreliable else estimate.high)
    return float(np.quantile(ends, POWER, method="higher"))


def detectable_effect_like(
    items: ItemValues,
    unchanged: bool = False,
    size: int | None = None,
    transform: Callable[[float], float] = float,
) -> DetectableEffect:
    """Return the minimum detectable effect of samples of any size whose documents are like those of
    a measured pair.

    Args:
        items: of the pair.
        unchanged: whether the true value is assumed to be 0, as in an unchanged candidate;
            otherwise it is the measured one.
        size: of the pair; default the number of its values.
        transform: maps the mean of means to the metric.
    """
    per_unit = len(items.values) / (size or len(items.values))
    mean = float(np.average(items.values.astype(np.float64), weights=items.sizes))
    centre = 0.0 if unchanged else transform(mean)
    if items.kind in _INTERVALS:
        sums = ClusterSums(items.values * items.sizes.astype(np.float64), items.sizes.astype(float))

        def resized(number: int) -> Estimate:
            return _INTERVALS[items.kind](_ResizedSums.of_size(sums, number * per_unit)).map(
                transform
            )
    else:
        share = _resized_share(items, unchanged)

        def resized(number: int) -> Estimate:
            return share(max(round(number * per_unit), 1))

    varies = bool(items.values.any())
    return lambda number: centre + minimum_detectable_effect(resized(number), varies=varies)


def scaled_effect(estimate: Estimate, size: int, centre: float) -> DetectableEffect:
    """Return the minimum detectable effect of samples of any size for a quantity without values by
    item, such as a ratio or a quantile: widths are proportional to the inverse square root of the
    size.

    Args:
        estimate: of the quantity.
        size: of its sample.
        centre: the assumed true value.
    """
    width = minimum_detectable_effect(estimate)
    return lambda number: centre + width * math.sqrt(size / number)


@dataclass(frozen=True)
class _ResizedSums(ClusterSums):
    """The sums of a sample of another size, in which each cluster occurs ``copies`` times.

    The number need not be an integer, so that a smaller sample has rare clusters as well. The
    corrections of :class:`ClusterSums` for few clusters are those of the original sample.
    """

    copies: float = 1.0

    @classmethod
    def of_size(cls, sums: ClusterSums, size: float) -> "_ResizedSums":
        return cls(sums.totals, sums.sizes, size / len(sums.sizes))

    @property
    def cluster_count(self) -> int:
        return round(self.copies * len(self.sizes))

    @cached_property
    def item_count(self) -> int:
        return round(self.copies * self.sizes.sum())

    @cached_property
    def effective_clusters(self) -> float:
        return self.copies * super().effective_clusters

    @cached_property
    def standard_error(self) -> float:
        squares = float(np.square(self.residuals).sum())
        return math.sqrt(squares / self.copies) / float(self.sizes.sum())

    @cached_property
    def skewness(self) -> float:
        return super().skewness / math.sqrt(self.copies)

    @cached_property
    def degrees_of_freedom(self) -> float:
        return max(self.copies * (super().degrees_of_freedom + 1) - 1, 1.0)

    @property
    def has_no_interval(self) -> bool:
        return len(self.sizes) == 1 or self.cluster_count <= 1 or math.isnan(self.mean)


def _resized_share(items: ItemValues, unchanged: bool) -> Callable[[int], Estimate]:
    """Return a function from a number of items to their mean score change or proportion, with
    documents as in a measured pair.

    In an unchanged candidate, the changed documents of the pair get alternating signs; a proportion
    is kept as it is.
    """
    values = items.values.astype(np.float64)
    count = int(items.documents.max()) + 1
    if unchanged and items.kind == SCORE_CHANGE:
        totals = np.bincount(items.documents, values, count)
        order = np.argsort(-np.abs(totals), kind="stable")
        signs = np.empty(count)
        signs[order] = np.where(np.arange(count) % 2, -1.0, 1.0)
        values = values * (signs * np.where(totals < 0, -1.0, 1.0))[items.documents]
    # Shuffled, so that a prefix of the documents is representative of all of them.
    places = np.random.default_rng(0).permutation(count)[items.documents]
    order = np.argsort(places, kind="stable")
    values, documents = values[order], places[order]

    def resized(number: int) -> Estimate:
        cycles = np.arange(number) // len(values)
        return replace(
            items,
            values=np.resize(values, number).astype(np.float32),
            sizes=np.ones(number, np.int32),
            documents=np.resize(documents, number) + cycles * count,
        ).estimate()

    return resized


def flip_rate(items: ItemValues) -> float:
    """Return the share of items whose value changed."""
    return float((items.values != 0).mean())
