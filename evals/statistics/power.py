"""What a number of items can tell, before a candidate is run.

A gate *resolves* a limit if a candidate like the one that is assumed proves that it keeps it, four
times in five. The upper end of an interval lies, in that share of the runs, below::

    centre + (upper end - value) + (end of the one-sided interval at the power - value)

where the centre is 0 for a drift, which a candidate that has not changed does not have, and the
assumed value itself for a distance, such as the share of predictions that flip. The intervals are
those of the gates, on values that are laid out as assumed.
`python -m compression_gates.fixtures.experiments.planning_simulation` shows the power that planned
items really have.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import PROPORTION, SHARE, ItemValues
from compression_gates.evals.statistics.shares import clustered_proportion, clustered_share
from compression_gates.evals.statistics.tails import FEW

POWER = 0.8
MOST = 1_000_000
"""Items that are asked for at most."""
FLIPS = 0.04
"""Share of the answers that are assumed to flip where no pair is stored."""
_DRAWS = 300
"""Random draws of items that share documents, whose upper ends' quantile is taken."""

At = Callable[[int], float]
"""The smallest limit that so many items resolve."""


@dataclass(frozen=True)
class Resolution:
    """What a gate's items can tell.

    Attributes:
        limit: what the gate allows.
        resolved: the smallest limit that a candidate as assumed proves to keep, :data:`POWER` of
            the time; infinite where none is, NaN where nothing is known of its values.
        items: how many there are, and
        needed: about how many it takes for ``limit``, documents growing with them; -1 where no
            number of them does.
        shared: how many it takes if all items of a document share their fate; 0 where each
            document has one item, or where documents are the unit in the first place.
        assumes: what is assumed of a candidate, in words.
        measured: whether that was measured on a stored pair.
    """

    limit: float
    resolved: float
    items: int
    needed: int
    shared: int = 0
    assumes: str = ""
    measured: bool = False

    @property
    def known(self) -> bool:
        return not math.isnan(self.resolved)

    @property
    def enough(self) -> bool:
        return self.resolved <= self.limit


def unknown(limit: float, items: int, assumes: str) -> Resolution:
    """Of a gate of whose values nothing can be assumed."""
    return Resolution(limit, math.nan, items, -1, assumes=assumes)


def of_mean(estimate: Estimate, limit: float, centre: float = 0.0) -> Resolution:
    """What the items behind an estimate resolve; half widths shrink with the square root of their
    number.

    Args:
        estimate: of the mean of a measured pair.
        limit: what the gate allows.
        centre: the value that a candidate is assumed to have.
    """
    width = spread(estimate)
    resolved = centre + width if math.isfinite(width) else math.inf
    needed = -1
    if math.isfinite(resolved) and limit > centre:
        needed = max(math.ceil(estimate.n * (width / (limit - centre)) ** 2), 1)
    return Resolution(limit, resolved, estimate.n, needed)


def of_share(
    limit: float, items: int, at: At, at_shared: At | None = None, per_document: int = 1
) -> Resolution:
    """What items resolve whose values can be laid out for any number of them.

    Args:
        limit: what the gate allows.
        items: how many there are.
        at: the smallest limit that so many resolve, such as :func:`flipped` or :func:`tiled`.
        at_shared: the same if the items of a document share their fate.
        per_document: items of a document.
    """
    shared = needed_items(at_shared, limit, per_document) if at_shared is not None else 0
    return Resolution(limit, at(items), items, needed_items(at, limit, per_document), shared)


def needed_items(at: At, limit: float, per_document: int = 1) -> int:
    """The number of items, to about a hundredth, that resolve a limit; -1 where
    :data:`MOST` do not. Not fewer than :data:`evals.statistics.FEW` documents, of which an interval
    says little whatever it is."""
    if not limit > 0:
        return -1
    low, high = 1, FEW * per_document
    while not at(high) <= limit:
        if high >= MOST:
            return -1
        low, high = high, min(2 * high, MOST)
    low = max(low, FEW * per_document - 1)
    while high - low > max(low // 100, 1):
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle) <= limit else (middle, high)
    return high


def spread(estimate: Estimate, power: float = POWER) -> float:
    """How far above the true value the upper end of an interval lies at most in ``power`` of the
    runs; infinite where the interval cannot be relied on."""
    if estimate.unreliable or not math.isfinite(estimate.high):
        return math.inf
    upper = estimate.high - estimate.value
    beyond = estimate.bounds(2 * power - 1)[1] - estimate.value
    return upper + beyond


@lru_cache(maxsize=1 << 12)  # the same for every baseline on the same data
def flipped(
    items: int, flips: float, per_document: int = 1, shared: bool = False, distance: bool = False
) -> float:
    """The smallest limit that items resolve of which a share flips, half of them each way.

    Args:
        items: how many.
        flips: share of them that flips.
        per_document: items of a document.
        shared: whether all of a document flip together; otherwise each flips by itself.
        distance: whether the gate is on the share of flips itself and not on the fall of right
            answers.
    """
    documents = max(items // per_document, 2)
    interval = clustered_proportion if distance else clustered_share
    if per_document > 1 and not shared:
        return _flipped_by_itself(documents, per_document, flips, distance)
    values = np.zeros(documents)
    if distance:
        values[: math.ceil(flips * documents)] = 1.0
    else:
        half = min(math.ceil(flips / 2 * documents), documents // 2)
        values[:half], values[half : 2 * half] = 1.0, -1.0
    repeats = per_document if shared else 1
    estimate = interval(np.repeat(values, repeats), np.repeat(np.arange(documents), repeats))
    return spread(estimate) + (estimate.value if distance else 0.0)


def _flipped_by_itself(documents: int, per_document: int, flips: float, distance: bool) -> float:
    """As :func:`flipped`, of items that share documents and no fate. How wide their interval is
    depends on where they happen to flip, so upper ends are drawn."""
    interval = clustered_proportion if distance else clustered_share
    clusters = np.repeat(np.arange(documents), per_document)
    generator = np.random.default_rng(0)
    ends = []
    for _ in range(_DRAWS):
        drawn = generator.random(len(clusters))
        values = (drawn < flips / 2).astype(float) - (drawn > 1 - flips / 2)
        estimate = interval(np.abs(values) if distance else values, clusters)
        ends.append(math.inf if estimate.unreliable else estimate.high)
    return float(np.quantile(ends, POWER, method="higher"))


def tiled(items: ItemValues) -> At:
    """The smallest limit that so many items resolve whose documents are like those of a measured
    pair.

    For a drift, the documents of the pair that changed are made to rise and fall by turns, as
    those of a candidate that has not changed; a proportion stays what it is.
    """
    if items.kind not in (SHARE, PROPORTION):
        raise ValueError(f"values of kind {items.kind} cannot be laid out for a share")
    values = items.values.astype(np.float64)
    count = int(items.documents.max()) + 1
    if items.kind == SHARE:
        totals = np.bincount(items.documents, values, count)
        order = np.argsort(-np.abs(totals), kind="stable")
        turns = np.empty(count)
        turns[order] = np.where(np.arange(count) % 2, -1.0, 1.0)
        values = values * (turns * np.where(totals < 0, -1.0, 1.0))[items.documents]
    # So that a part of the documents is like all of them.
    places = np.random.default_rng(0).permutation(count)[items.documents]
    order = np.argsort(places, kind="stable")
    values, documents = values[order], places[order]

    def at(number: int) -> float:
        cycles = np.arange(number) // len(values)
        laid = np.resize(values, number)
        clusters = np.resize(documents, number) + cycles * count
        own = replace(
            items,
            values=laid.astype(np.float32),
            sizes=np.ones(number, np.int32),
            documents=clusters,
        )
        estimate = own.estimate()
        return spread(estimate) + (estimate.value if items.kind == PROPORTION else 0.0)

    return at


def share_of_flips(items: ItemValues) -> float:
    """Share of items whose value changed."""
    return float((items.values != 0).mean())
