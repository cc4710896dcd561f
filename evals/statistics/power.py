"""Power analysis: which limits a number of items can prove, before a candidate is run.

The *minimum detectable effect* of a gate is the smallest limit that a candidate as assumed is
proven to keep, with a power of 80 %. In that share of the runs, the upper end of the interval is
below::

    centre + (upper end - value) + (end of the one-sided interval at the power - value)

The centre is 0 for a drift, because an unchanged candidate has none, and the assumed value itself
for a distance, such as the share of predictions that flip. The intervals are those of the gates,
computed on values that are constructed as assumed. The power that planned items have in fact is
simulated by `python -m compression_gates.fixtures.experiments.planning_simulation`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import PROPORTION, SCORE_CHANGE, ItemValues
from compression_gates.evals.statistics.proportions import (
    clustered_proportion,
    clustered_score_change,
)
from compression_gates.evals.statistics.tails import MIN_CLUSTERS

POWER = 0.8
MAX_ITEMS = 1_000_000
"""Largest number of items that is proposed."""
FLIPS = 0.04
"""Share of the answers that is assumed to flip if no pair was measured."""
_DRAWS = 300
"""Number of simulated samples from which the quantile of the upper end is taken."""

DetectableEffect = Callable[[int], float]
"""Maps a number of items to the minimum detectable effect."""


@dataclass(frozen=True)
class PowerAnalysis:
    """What the items of a gate can prove.

    Attributes:
        limit: of the gate.
        minimum_detectable_effect: the smallest limit that a candidate as assumed is proven to keep
            with a power of :data:`POWER`; infinite if there is none, NaN if nothing is known of the
            values.
        items: number of items.
        needed_items: approximate number of items needed for ``limit``, with as many items per
            document as now; -1 if no number suffices.
        needed_items_if_shared: the same if all items of a document flip together; 0 if each
            document has one item, or if documents are the unit of the analysis.
        assumes: the assumption about the candidate, in words.
        measured: whether the assumption was measured on a stored pair.
    """

    limit: float
    minimum_detectable_effect: float
    items: int
    needed_items: int
    needed_items_if_shared: int = 0
    assumes: str = ""
    measured: bool = False

    @property
    def is_known(self) -> bool:
        return not math.isnan(self.minimum_detectable_effect)

    @property
    def is_sufficient(self) -> bool:
        return self.minimum_detectable_effect <= self.limit


def unknown_power(limit: float, items: int, assumes: str) -> PowerAnalysis:
    """Return the analysis of a gate about whose values nothing can be assumed."""
    return PowerAnalysis(limit, math.nan, items, -1, assumes=assumes)


def power_of_mean(estimate: Estimate, limit: float, centre: float = 0.0) -> PowerAnalysis:
    """Analyze the items of a measured mean; half widths scale with the inverse square root of their
    number.

    Args:
        estimate: of the mean of a measured pair.
        limit: of the gate.
        centre: value that a candidate is assumed to have.
    """
    width = minimum_detectable_effect(estimate)
    effect = centre + width if math.isfinite(width) else math.inf
    needed = -1
    if math.isfinite(effect) and limit > centre:
        needed = max(math.ceil(estimate.n * (width / (limit - centre)) ** 2), 1)
    return PowerAnalysis(limit, effect, estimate.n, needed)


def power_of_share(
    limit: float,
    items: int,
    effect: DetectableEffect,
    effect_if_shared: DetectableEffect | None = None,
    per_document: int = 1,
) -> PowerAnalysis:
    """Analyze items whose values can be constructed for any number of them.

    Args:
        limit: of the gate.
        items: number of items.
        effect: such as :func:`detectable_effect_of_flips` or :func:`detectable_effect_like`.
        effect_if_shared: the same if all items of a document flip together.
        per_document: items of a document.
    """
    shared = needed_items(effect_if_shared, limit, per_document) if effect_if_shared else 0
    needed = needed_items(effect, limit, per_document)
    return PowerAnalysis(limit, effect(items), items, needed, shared)


def needed_items(effect: DetectableEffect, limit: float, per_document: int = 1) -> int:
    """Return the number of items needed for a limit, to within about one percent.

    It is at least :data:`evals.statistics.tails.MIN_CLUSTERS` documents, below which intervals are
    unreliable, and -1 if :data:`MAX_ITEMS` do not suffice.
    """
    if not limit > 0:
        return -1
    low, high = 1, MIN_CLUSTERS * per_document
    while not effect(high) <= limit:
        if high >= MAX_ITEMS:
            return -1
        low, high = high, min(2 * high, MAX_ITEMS)
    low = max(low, MIN_CLUSTERS * per_document - 1)
    while high - low > max(low // 100, 1):
        middle = (low + high) // 2
        low, high = (low, middle) if effect(middle) <= limit else (middle, high)
    return high


def minimum_detectable_effect(estimate: Estimate, power: float = POWER) -> float:
    """Return the distance above the true value that the upper end of an interval does not exceed
    with a probability of ``power``; infinite if the interval is unreliable."""
    if estimate.unreliable or not math.isfinite(estimate.high):
        return math.inf
    upper = estimate.high - estimate.value
    beyond = estimate.bounds(2 * power - 1)[1] - estimate.value
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


def detectable_effect_like(items: ItemValues) -> DetectableEffect:
    """Return the minimum detectable effect of any number of items whose documents are like those of
    a measured pair.

    For a drift, the changed documents of the pair get alternating signs, as in an unchanged
    candidate; a proportion is kept as it is.

    Raises:
        ValueError: the values are means.
    """
    if items.kind not in (SCORE_CHANGE, PROPORTION):
        raise ValueError(f"values of kind {items.kind!r} are neither score changes nor proportions")
    values = items.values.astype(np.float64)
    count = int(items.documents.max()) + 1
    if items.kind == SCORE_CHANGE:
        totals = np.bincount(items.documents, values, count)
        order = np.argsort(-np.abs(totals), kind="stable")
        signs = np.empty(count)
        signs[order] = np.where(np.arange(count) % 2, -1.0, 1.0)
        values = values * (signs * np.where(totals < 0, -1.0, 1.0))[items.documents]
    # Shuffled, so that a prefix of the documents is representative of all of them.
    places = np.random.default_rng(0).permutation(count)[items.documents]
    order = np.argsort(places, kind="stable")
    values, documents = values[order], places[order]

    def effect(number: int) -> float:
        cycles = np.arange(number) // len(values)
        resized = replace(
            items,
            values=np.resize(values, number).astype(np.float32),
            sizes=np.ones(number, np.int32),
            documents=np.resize(documents, number) + cycles * count,
        )
        estimate = resized.estimate()
        centre = estimate.value if items.kind == PROPORTION else 0.0
        return minimum_detectable_effect(estimate) + centre

    return effect


def flip_rate(items: ItemValues) -> float:
    """Return the share of items whose value changed."""
    return float((items.values != 0).mean())
