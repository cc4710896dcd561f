"""How often the intervals cover the truth, and how often a run raises a false alarm.

    python -m evals.simulation [--repeats N] [--only PATTERN] [--seed N]

Documents are drawn from distributions whose mean is known, and every interval that a gate rests on
is asked whether it holds it, or says that it cannot be relied on. Then whole runs of gates on an
unchanged model are drawn, and runs with a drift of twice the margin at the planned number of items.
"""

import argparse
import math
import zlib
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from evals.families import RATE, alarms
from evals.power import spread
from evals.scenarios import SCENARIOS, Scenario, fates
from evals.statistics import clustered_mcnemar, clustered_share, mcnemar

REPEATS = 1000
MOST_WRONG = 0.065
"""Samples in which an interval may miss the truth without saying that it is unreliable."""
ENOUGH_TOLD = 0.2
"""Share of the samples that are told, from which on the told ones must cover by themselves."""


@dataclass(frozen=True)
class Coverage:
    """What became of many samples.

    Attributes:
        covered: share whose interval holds the truth.
        flagged: share whose interval says that it is unreliable.
        wrong: share whose interval does not hold the truth and does not say so.
    """

    covered: float
    flagged: float
    wrong: float

    @property
    def covered_of_told(self) -> float:
        """Of those that are not flagged, the share that covers; NaN where all are flagged."""
        return 1 - self.wrong / (1 - self.flagged) if self.flagged < 1 else math.nan

    @property
    def holds(self) -> bool:
        told = 1 - self.flagged
        enough = told < ENOUGH_TOLD or self.covered_of_told >= 1 - MOST_WRONG
        return self.wrong <= MOST_WRONG and enough


def coverage(
    scenario: Scenario, repeats: int, seed: int = 0, compare: bool = True
) -> dict[str, Coverage]:
    """What became of samples, for each of the scenario's intervals.

    Args:
        scenario: what is drawn.
        repeats: how many samples.
        seed: of the draws, which do not depend on other scenarios.
        compare: whether to ask the intervals too that no gate uses.
    """
    intervals = list(scenario.intervals.items())[: None if compare else 1]
    generator = np.random.default_rng([seed, zlib.crc32(scenario.name.encode())])
    seen = {name: np.zeros(3) for name, _ in intervals}
    for _ in range(repeats):
        sample = scenario.draw(generator)
        for name, method in intervals:
            found = method(*sample)
            covered, flagged = found.low <= scenario.truth <= found.high, bool(found.unreliable)
            seen[name] += covered, flagged, not covered and not flagged
    return {name: Coverage(*map(float, counts / repeats)) for name, counts in seen.items()}


NULLS = ((400, 1, 0.0), (30, 20, 0.7), (30, 20, 1.0), (60, 10, 0.7), (240, 2, 0.3))
"""Documents, items of each, and the probability that an item shares its document's fate."""
CHANGED = 0.1
"""Share of the items that are lost, and of those that are gained, under the null hypothesis."""


def rejections(
    documents: int, per_document: int, shared: float, repeats: int, seed: int = 0
) -> tuple[float, float]:
    """Share of samples in which as many answers are lost as gained, but for chance, whose p-value
    is below 5 %: of the test by document, and of McNemar's, which takes items for independent."""
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(documents), per_document)
    by_document = by_item = 0
    for _ in range(repeats):
        drawn = fates(generator, documents, per_document, shared)
        losses, gains = drawn < CHANGED, drawn > 1 - CHANGED
        by_document += clustered_mcnemar(losses.astype(int) - gains, clusters) < 0.05
        by_item += mcnemar(int(losses.sum()), int(gains.sum())) < 0.05
    return by_document / repeats, by_item / repeats


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


def coverage_table(scenarios: list[Scenario], repeats: int, seed: int) -> str:
    """A row for each scenario."""
    from tabulate import tabulate

    rows = []
    for scenario in tqdm(scenarios, unit="scenario", leave=False, disable=None):
        found = coverage(scenario, repeats, seed)
        name, used = next(iter(found.items()))
        others = ", ".join(f"{n} {c.covered:.1%}" for n, c in found.items() if n != name)
        rows.append(
            [scenario.name, f"{name} {used.covered:.1%}", f"{used.flagged:.1%}",
             f"{used.wrong:.1%}", "yes" if used.holds else "NO", others]
        )  # fmt: skip
    heads = ["values", "covered", "unreliable", "told and wrong", "holds", "others cover"]
    return tabulate(rows, heads, "github", disable_numparse=True)


def null_table(repeats: int, seed: int) -> str:
    """A row for each kind of documents."""
    from tabulate import tabulate

    rows = [
        [f"{documents} x {per_document}, shared fate {shared:g}",
         *(f"{share:.1%}" for share in rejections(documents, per_document, shared, repeats, seed))]
        for documents, per_document, shared in NULLS
    ]  # fmt: skip
    return tabulate(rows, ["true null", "p < 5 %", "McNemar by item"], "github")


def run_table(repeats: int, seed: int) -> str:
    """How whole runs of gates end."""
    items = planned_items()
    alarmed, _ = runs(repeats, 0.0, items, seed)
    at_margin, _ = runs(repeats, MARGIN, items, seed)
    _, failed = runs(max(repeats // 10, 1), 2 * MARGIN, items, seed)
    return (
        f"{GATES} gates at a margin of {MARGIN:.0%}, {items} items each, as planned:\n"
        f"unchanged model     {alarmed:.1%} of {repeats} runs raise an alarm (Holm at {RATE:.0%})\n"
        f"all at their margin {at_margin:.1%} of {repeats} runs raise an alarm\n"
        f"twice the margin    {failed:.2%} of the gates fail"
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evals.simulation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=REPEATS, help="(%(default)s)")
    parser.add_argument("--only", default="", metavar="PATTERN",
                        help="only the coverage of values whose name contains it")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    given = parser.parse_args(words)
    chosen = [scenario for scenario in SCENARIOS if given.only in scenario.name]
    if not chosen:
        parser.error(f"--only {given.only}: no values are called so")
    print(
        f"Nominal 95 %, {given.repeats} samples each. An interval holds if at most "
        f"{MOST_WRONG:.1%} of the samples are told, that is not called unreliable, and wrong,\n"
        f"and if those that are told cover {1 - MOST_WRONG:.1%}, where they are {ENOUGH_TOLD:.0%} "
        "of the samples or more.\n"
    )
    print(coverage_table(chosen, given.repeats, given.seed))
    if not given.only:
        print(f"\n{null_table(given.repeats, given.seed)}\n")
        print(run_table(given.repeats, given.seed))


if __name__ == "__main__":
    main()
