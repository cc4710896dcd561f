"""Distributions whose mean is known, that intervals are tried on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evals.estimate import Estimate, exact
from evals.metrics.efficiency import weighted_score
from evals.reading import Reading
from evals.sequential import LOOKS, sequential_median
from evals.statistics import (
    accelerated_mean,
    clustered_mean,
    clustered_proportion,
    clustered_share,
    series_mean,
    studentized_mean,
)

RESAMPLES = 199
Sample = tuple[np.ndarray, np.ndarray]
"""Values and their documents."""
Interval = Callable[..., Estimate]


@dataclass(frozen=True)
class Scenario:
    """What is drawn, its true value, and the intervals that are asked.

    Attributes:
        name: of the kind of data.
        draw: a sample.
        truth: what its estimate is of.
        intervals: by name; the first is the one that gates use.
    """

    name: str
    draw: Callable[[np.random.Generator], Sample]
    truth: float
    intervals: dict[str, Interval]


def _bca(*sample: np.ndarray) -> Estimate:
    return accelerated_mean(*sample, resamples=RESAMPLES)


MEANS: dict[str, Interval] = {"mean": studentized_mean, "t": clustered_mean, "BCa": _bca}
SERIES: dict[str, Interval] = {"series": series_mean, "t": clustered_mean}
SHARES: dict[str, Interval] = {"share": clustered_share, "t": clustered_mean}
PROPORTIONS: dict[str, Interval] = {"proportion": clustered_proportion, "t": clustered_mean}


def token_losses(documents: int, shape: float) -> Scenario:
    """Losses of tokens in documents of unlike length, whose means are skewed: gamma with
    ``shape``, less its mean, beside noise from token to token."""

    def draw(generator: np.random.Generator) -> Sample:
        sizes = generator.integers(20, 120, documents)
        means = generator.gamma(shape, 1 / math.sqrt(shape), documents) - math.sqrt(shape)
        clusters = np.repeat(np.arange(documents), sizes)
        return means[clusters] + generator.normal(size=len(clusters)), clusters

    skew = 2 / math.sqrt(shape)
    return Scenario(f"token losses, {documents} documents, skewness {skew:g}", draw, 0.0, MEANS)


def ratios(documents: int) -> Scenario:
    """Perplexity ratios: the exponential of a mean difference of token losses."""
    inner = token_losses(documents, 4.0)
    intervals = {
        name: lambda *sample, method=method: method(*sample).map(math.exp)
        for name, method in MEANS.items()
    }
    return Scenario(f"perplexity ratio, {documents} documents", inner.draw, 1.0, intervals)


def means_of_documents(
    name: str, documents: int, draw: Callable[[np.random.Generator, int], np.ndarray], truth: float
) -> Scenario:
    """A value for each document."""

    def sample(generator: np.random.Generator) -> Sample:
        return draw(generator, documents), np.arange(documents)

    return Scenario(f"{name}, {documents} documents", sample, truth, MEANS)


def lognormal(documents: int, sigma: float) -> Scenario:
    return means_of_documents(
        f"lognormal (sigma {sigma:g})", documents,
        lambda generator, n: generator.lognormal(0.0, sigma, n), math.exp(sigma**2 / 2),
    )  # fmt: skip


def pareto(documents: int, index: float) -> Scenario:
    return means_of_documents(
        f"Pareto (index {index:g})", documents,
        lambda generator, n: 1 + generator.pareto(index, n), index / (index - 1),
    )  # fmt: skip


UNSURE, POWER, SURE, SIZE = 0.12, 2.3, 2e-10, 9e-7


def divergences(documents: int) -> Scenario:
    """Divergences of a classifier that was quantized to 8 bits: of rounding where it is sure, and
    far larger for the 12 % of the inputs where it is not. Skewness 25, as of a shipped one."""

    def draw(generator: np.random.Generator, n: int) -> np.ndarray:
        unsure = generator.random(n) < UNSURE
        large = SIZE * generator.exponential(size=n) ** POWER
        return np.where(unsure, large, SURE * generator.lognormal(size=n))

    truth = UNSURE * SIZE * math.gamma(1 + POWER) + (1 - UNSURE) * SURE * math.exp(0.5)
    return means_of_documents("divergence of an int8 classifier", documents, draw, truth)


def unlike_documents(documents: int) -> Scenario:
    """Token losses with a long tail, in documents of 1 to 2,000 tokens."""

    def draw(generator: np.random.Generator) -> Sample:
        clusters = np.repeat(np.arange(documents), generator.integers(1, 2001, documents))
        return generator.lognormal(0.0, 2.0, len(clusters)), clusters

    name = f"lognormal (sigma 2) tokens, {documents} documents of 1 to 2,000"
    return Scenario(name, draw, math.exp(2.0), MEANS)


def two_large_documents(documents: int, large: int) -> Scenario:
    """Token losses where two documents hold most of the tokens."""

    def draw(generator: np.random.Generator) -> Sample:
        sizes = np.full(documents, 50)
        sizes[:2] = large
        clusters = np.repeat(np.arange(documents), sizes)
        return generator.normal(size=documents)[clusters] + generator.normal(size=len(clusters)), (
            clusters
        )

    held = 2 * large / (2 * large + 50 * (documents - 2))
    return Scenario(f"2 of {documents} documents hold {held:.0%} of the tokens", draw, 0.0, MEANS)


def windows(count: int, correlation: float) -> Scenario:
    """Windows of one document: a first-order autoregression, beside noise from token to token."""

    def draw(generator: np.random.Generator) -> Sample:
        from scipy.signal import lfilter

        noise = generator.normal(size=count + 100)
        levels = lfilter([1.0], [1.0, -correlation], noise)[100:]
        clusters = np.repeat(np.arange(count), 20)
        return levels[clusters] + generator.normal(size=len(clusters)), clusters

    name = f"one document, {count} windows with an autocorrelation of {correlation:g}"
    return Scenario(name, draw, 0.0, SERIES)


def fates(
    generator: np.random.Generator, documents: int, per_document: int, shared: float
) -> np.ndarray:
    """``(n,)`` uniform draws; an item takes its document's with probability ``shared``, else its
    own, so that every item's is uniform."""
    own = generator.random((documents, per_document))
    common = np.broadcast_to(generator.random((documents, 1)), own.shape)
    return np.where(generator.random(own.shape) < shared, common, own).ravel()


def answers(
    documents: int, per_document: int, loss: float, gain: float, shared: float = 0.3
) -> Scenario:
    """Right answers lost and gained, paired; several questions of a document share its fate."""

    def draw(generator: np.random.Generator) -> Sample:
        drawn = fates(generator, documents, per_document, shared)
        changes = (drawn < loss).astype(float) - (drawn > 1 - gain)
        return changes, np.repeat(np.arange(documents), per_document)

    name = f"answers lost {loss:.1%}, gained {gain:.1%}, {documents} x {per_document}"
    if per_document > 1:
        name += f", shared fate {shared:g}"
    return Scenario(name, draw, loss - gain, SHARES)


def graded(items: int, moved: float, lost: float) -> Scenario:
    """Scores such as F1 and ROUGE: a share of the items ``moved`` by some 0.02 either way, another
    is ``lost`` by anything up to 1."""

    def draw(generator: np.random.Generator) -> Sample:
        drawn = generator.random(items)
        small = generator.normal(0.0, 0.02, items).clip(-1, 1)
        large = generator.random(items)
        changes = np.where(drawn < lost, large, np.where(drawn < lost + moved, small, 0.0))
        return changes, np.arange(items)

    name = f"scores moved {moved:.0%} by some 0.02, lost {lost:.0%} by up to 1, {items} items"
    return Scenario(name, draw, lost / 2, SHARES)


def rates(documents: int, per_document: int, rate: float, shared: float = 0.3) -> Scenario:
    """Items that flip."""

    def draw(generator: np.random.Generator) -> Sample:
        hits = fates(generator, documents, per_document, shared) < rate
        return hits.astype(float), np.repeat(np.arange(documents), per_document)

    name = f"rate of {rate:.1%}, {documents} x {per_document}"
    if per_document > 1:
        name += f", shared fate {shared:g}"
    return Scenario(name, draw, rate, PROPORTIONS)


def scores(items: int) -> Scenario:
    """The weighted score's part that is sampled: a candidate's own accuracy."""

    def draw(generator: np.random.Generator) -> Sample:
        before = (generator.random(items) < 0.7).astype(float)
        changed = generator.random(items) < 0.03
        return np.stack([before, np.where(changed, 1 - before, before)]), np.arange(items)

    def score(sides: np.ndarray, clusters: np.ndarray) -> Estimate:
        before, after = sides
        task = Reading(
            clustered_share(before - after, clusters), before.mean(), after.mean(),
            level=clustered_proportion(after, clusters),
        )  # fmt: skip
        known = Reading(exact(1.0), 1.0, 1.0)
        return weighted_score({"task": 1.0, "size": 1.0, "speed": 0.0}, task, known, known).estimate

    truth = 1 + 0.7 * 0.97 + 0.3 * 0.03
    return Scenario(f"weighted score, {items} items", draw, truth, {"score": score})


def times(limit: float) -> Scenario:
    """Ratios of timings, mostly quiet, sometimes disturbed, until they leave a limit."""

    def draw(generator: np.random.Generator) -> Sample:
        quiet = generator.lognormal(0.0, 0.03, LOOKS[-1])
        return quiet * np.exp(generator.standard_t(2, LOOKS[-1]) * 0.02), np.arange(LOOKS[-1])

    def interval(values: np.ndarray, _: np.ndarray) -> Estimate:
        for look in LOOKS:
            found = sequential_median(values[:look])
            if not found.low <= limit <= found.high:
                break
        return found

    return Scenario(f"timings of ratio 1, limit {limit:g}", draw, 1.0, {"sequential": interval})


SCENARIOS = [
    *(token_losses(g, shape) for g in (10, 40, 160) for shape in (100.0, 4.0, 1.0)),
    *(ratios(g) for g in (40, 160)),
    *(lognormal(g, sigma) for sigma in (1.0, 2.0) for g in (30, 60, 160, 500)),
    *(pareto(g, 1.5) for g in (30, 60, 160, 500)),
    *(divergences(g) for g in (30, 60, 100, 160, 500)),
    *(unlike_documents(g) for g in (30, 60)),
    *(two_large_documents(40, large) for large in (1000, 10000)),
    *(windows(n, 0.6) for n in (20, 30, 60, 120, 300)),
    *(answers(*case) for case in (
        (240, 2, 0.05, 0.05), (240, 2, 0.1, 0.02), (2000, 1, 0.02, 0.01), (60, 1, 0.1, 0.05),
        (200, 1, 0.3, 0.0), (200, 1, 0.005, 0.0), (100, 1, 0.03, 0.0), (100, 1, 0.03, 0.03),
        (30, 20, 0.03, 0.0), (30, 20, 0.03, 0.0, 0.7), (30, 20, 0.03, 0.0, 1.0),
        (60, 20, 0.03, 0.0), (60, 20, 0.03, 0.0, 0.7), (60, 20, 0.03, 0.0, 1.0),
        (60, 10, 0.1, 0.05, 0.7), (60, 10, 0.03, 0.03, 0.7), (240, 2, 0.03, 0.03, 0.7),
    )),
    *(graded(*case) for case in (
        (200, 1.0, 0.0), (200, 0.6, 0.03), (200, 0.1, 0.03), (1000, 0.6, 0.03), (1000, 0.1, 0.1),
    )),
    *(rates(*case) for case in (
        (50, 1, 0.5), (50, 1, 0.1), (200, 1, 0.03), (200, 1, 0.97), (1000, 1, 0.01), (100, 1, 0.01),
        (30, 20, 0.03), (60, 20, 0.03, 0.7), (60, 10, 0.1, 0.7),
    )),
    *(scores(n) for n in (60, 240)),
    *(times(limit) for limit in (0.8, 0.98, 1.0)),
]  # fmt: skip
