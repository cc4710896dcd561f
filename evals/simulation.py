"""How often the intervals cover the truth, and how often a run raises a false alarm.

    python -m evals.simulation [--repeats N]

Documents are drawn from distributions whose mean is known, and every interval is asked whether it
holds it. Then whole runs of gates on an unchanged model are drawn, and runs with a drift of twice
the margin at the planned number of items.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from evals.estimate import Estimate
from evals.families import RATE, alarms
from evals.power import spread
from evals.statistics import (
    accelerated_mean,
    clustered_mean,
    clustered_proportion,
    clustered_share,
    median_interval,
    studentized_mean,
)

REPEATS, RESAMPLES = 1000, 999
Sample = tuple[np.ndarray, np.ndarray]
"""Values and their documents."""


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
    intervals: dict[str, Callable[..., Estimate]]


MEANS = {
    "studentized": lambda *sample: studentized_mean(*sample, resamples=RESAMPLES),
    "t": clustered_mean,
    "BCa": lambda *sample: accelerated_mean(*sample, resamples=RESAMPLES),
}
SHARES = {"Newcombe": clustered_share, "t": clustered_mean}


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


def answers(documents: int, per_document: int, loss: float, gain: float) -> Scenario:
    """Right answers lost and gained, paired; several questions of a document share its luck."""

    def draw(generator: np.random.Generator) -> Sample:
        clusters = np.repeat(np.arange(documents), per_document)
        # A question takes its document's luck or its own, so that shares stay as they are.
        own = generator.random((documents, per_document))
        shared = np.broadcast_to(generator.random((documents, 1)), own.shape)
        drawn = np.where(generator.random(own.shape) < 0.3, shared, own).ravel()
        return (drawn < loss).astype(float) - (drawn > 1 - gain), clusters

    name = f"answers lost {loss:.1%} and gained {gain:.1%}, {documents} x {per_document}"
    return Scenario(name, draw, loss - gain, SHARES)


def rates(items: int, rate: float) -> Scenario:
    """Bernoulli items."""

    def draw(generator: np.random.Generator) -> Sample:
        return (generator.random(items) < rate).astype(float), np.arange(items)

    # The exact interval of rare events, otherwise Wilson's.
    intervals = {"Wilson or exact": clustered_proportion, "t": clustered_mean}
    return Scenario(f"rate of {rate:.1%}, {items} items", draw, rate, intervals)


def times(pairs: int) -> Scenario:
    """Ratios of timings: mostly quiet, sometimes disturbed."""

    def draw(generator: np.random.Generator) -> Sample:
        quiet = generator.lognormal(0.0, 0.03, pairs)
        return quiet * np.exp(generator.standard_t(2, pairs) * 0.02), np.arange(pairs)

    return Scenario(
        f"median of {pairs} timings", draw, 1.0,
        {"order statistics": lambda values, _: median_interval(values)},
    )  # fmt: skip


SCENARIOS = [
    *(token_losses(g, shape) for g in (10, 30, 60, 160) for shape in (100.0, 4.0, 1.0)),
    *(ratios(g) for g in (30, 160)),
    *(rates(n, p) for n, p in ((50, 0.5), (50, 0.1), (200, 0.03), (200, 0.97), (1000, 0.01),
                              (100, 0.01))),
    *(answers(*case) for case in ((240, 2, 0.05, 0.05), (240, 2, 0.1, 0.02), (2000, 1, 0.02, 0.01),
                                  (60, 1, 0.1, 0.05), (200, 1, 0.3, 0.0), (200, 1, 0.005, 0.0))),
    *(times(n) for n in (15, 51)),
]  # fmt: skip


def coverage(scenario: Scenario, repeats: int, seed: int = 0) -> dict[str, float]:
    """Share of samples whose interval holds the truth, for each of the scenario's intervals."""
    generator = np.random.default_rng(seed)
    hits = dict.fromkeys(scenario.intervals, 0)
    for _ in range(repeats):
        sample = scenario.draw(generator)
        for name, method in scenario.intervals.items():
            found = method(*sample)
            hits[name] += found.low <= scenario.truth <= found.high
    return {name: count / repeats for name, count in hits.items()}


GATES, MARGIN = 100, 0.02


def runs(repeats: int, drift: float, items: int, seed: int = 0) -> tuple[float, float]:
    """Share of runs of :data:`GATES` gates that raise a family's alarm, and share of the gates
    whose point estimate breaks the margin.

    Each gate is on a change of right answers: of ``items`` 4 % change, and ``drift`` more are
    lost than gained.
    """
    generator = np.random.default_rng(seed)
    alarmed = failed = 0
    clusters = np.arange(items)
    for _ in range(repeats):
        p_values = []
        for _ in range(GATES):
            drawn = generator.random(items)
            values = (drawn < 0.02 + drift / 2).astype(float) - (drawn > 1 - 0.02 + drift / 2)
            mean = values.mean()
            failed += mean > MARGIN
            # The p-value of a gate whose estimate keeps its promise is 1.
            found = clustered_share(values, clusters).p_above(MARGIN) if mean > MARGIN else 1.0
            p_values.append(found)
        alarmed += bool(alarms(p_values).any())
    return alarmed / repeats, failed / (repeats * GATES)


def planned_items() -> int:
    """Items that resolve :data:`MARGIN` where 4 % of the answers change."""
    items = 100
    while True:
        values = np.zeros(items)
        values[: round(0.02 * items)], values[-round(0.02 * items) :] = 1.0, -1.0
        if spread(clustered_share(values, np.arange(items))) <= MARGIN:
            return items
        items = round(items * 1.05)


def main(words: list[str] | None = None) -> None:
    from tabulate import tabulate

    parser = argparse.ArgumentParser(
        prog="python -m evals.simulation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=REPEATS, help="(%(default)s)")
    repeats = parser.parse_args(words).repeats
    rows = []
    for scenario in tqdm(SCENARIOS, unit="scenario", leave=False, disable=None):
        found = coverage(scenario, repeats)
        used, *others = found.items()
        rows.append(
            [
                scenario.name,
                f"{used[0]} {used[1]:.1%}",
                ", ".join(f"{n} {c:.1%}" for n, c in others),
            ]
        )
    print(tabulate(rows, ["nominal 95 %", "gates use", "for comparison"], "github"))
    items = planned_items()
    alarmed, _ = runs(repeats, 0.0, items)
    at_margin, _ = runs(repeats, MARGIN, items)
    _, failed = runs(max(repeats // 10, 1), 2 * MARGIN, items)
    print(
        f"\n{GATES} gates at a margin of {MARGIN:.0%}, {items} items each, as planned:\n"
        f"unchanged model     {alarmed:.1%} of {repeats} runs raise an alarm (Holm at {RATE:.0%})\n"
        f"all at their margin {at_margin:.1%} of {repeats} runs raise an alarm\n"
        f"twice the margin    {failed:.2%} of the gates fail"
    )


if __name__ == "__main__":
    main()
