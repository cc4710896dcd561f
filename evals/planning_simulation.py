"""How much power planned items have, and how often proposed limits fail.

    python -m evals.planning_simulation [--repeats N]

Candidates that have not changed are drawn with the planned number of items, and asked how often
they prove to be below the limit, which :data:`evals.power.POWER` promises. Then limits are proposed
from one draw of a distribution each, and held against fresh draws of it.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from evals.estimate import Estimate
from evals.items import MEAN, PROPORTION, SHARE, ItemValues
from evals.power import POWER, flipped, needed_items
from evals.prediction import RATE, fresh_upper
from evals.statistics import clustered_share

REPEATS, DRAWS = 2000, 200
Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Values of so many documents."""
DOCUMENTS: dict[str, Draw] = {
    "normal": lambda generator, count: generator.normal(1.0, 0.3, count),
    "exponential": lambda generator, count: generator.exponential(1.0, count),
    "lognormal(1)": lambda generator, count: generator.lognormal(0.0, 1.0, count),
}


def power_of(
    items: int,
    flips: float,
    limit: float,
    per_document: int = 1,
    shared: bool = False,
    repeats: int = REPEATS,
    seed: int = 0,
) -> float:
    """Share of unchanged candidates that prove to fall by at most ``limit``.

    Args:
        items: how many there are.
        flips: share of them that flips, half each way.
        limit: on the fall.
        per_document: items of a document.
        shared: whether all items of a document flip together.
        repeats: candidates that are drawn.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    documents = items // per_document
    clusters = np.repeat(np.arange(documents), per_document)
    proven = 0
    for _ in range(repeats):
        drawn = generator.random(documents if shared else documents * per_document)
        values = (drawn < flips / 2).astype(float) - (drawn > 1 - flips / 2)
        values = np.repeat(values, per_document) if shared else values
        proven += clustered_share(values, clusters).high <= limit
    return proven / repeats


def answers(flips: float) -> Draw:
    """Right answers of which a share flips, half of them each way."""

    def draw(generator: np.random.Generator, count: int) -> np.ndarray:
        drawn = generator.random(count)
        return (drawn < flips / 2).astype(float) - (drawn > 1 - flips / 2)

    return draw


def flipping(flips: float) -> Draw:
    """Predictions of which a share flips: 1 where one does."""
    return lambda generator, count: (generator.random(count) < flips).astype(float)


def failing_limits(
    draw: Draw,
    kind: str,
    count: int,
    strict: bool,
    rate: float = RATE,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Share of fresh draws that break a limit that was proposed from another draw, and the share of
    the draws from which no limit is proposed.

    Every draw is held against the limits from all the others.

    Args:
        draw: the values of documents.
        kind: of the values, as in :class:`evals.items.ItemValues`.
        count: documents of a draw.
        strict: whether the whole interval of a fresh draw must keep the limit.
        rate: that the limits are proposed for.
        draws: how many.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    units = np.arange(count, dtype=np.int32)
    ends, limits = [], []
    for _ in range(draws):
        values = draw(generator, count).astype(np.float32)
        items = ItemValues(kind, values, np.ones(count, np.int32), units, {})
        found: Estimate = items.estimate()
        ends.append(found.high if strict else found.value)
        none = bool(found.unreliable)
        limits.append(math.nan if none else fresh_upper(found, items, rate, strict))
    broken = np.array(ends)[None, :] > np.array(limits)[:, None]
    np.fill_diagonal(broken, False)
    proposed = ~np.isnan(limits)
    share = broken[proposed].mean() * draws / (draws - 1) if proposed.any() else math.nan
    return float(share), float(1 - proposed.mean())


def _proposals(draws: int) -> list[list]:
    scenarios = [
        (f"documents {name}", draw, MEAN, count)
        for name, draw in DOCUMENTS.items()
        for count in (30, 60, 160, 500)
    ]
    for flips in (0.01, 0.02, 0.05):
        for count in (200, 1000):
            scenarios.append((f"fall of answers, {flips:.0%} flip", answers(flips), SHARE, count))
            scenarios.append((f"flips, {flips:.0%}", flipping(flips), PROPORTION, count))
    rows = []
    for name, draw, kind, count in tqdm(scenarios, unit="scenario", leave=False, disable=None):
        row = [name, count]
        for strict in (False, True):
            share, none = failing_limits(draw, kind, count, strict, draws=draws)
            row.append(f"{share:.2%}" + (f" ({none:.0%} none)" if none else ""))
        rows.append(row)
    return rows


def _plans(repeats: int) -> list[list]:
    rows = []
    for limit in (0.01, 0.02, 0.05):
        for flips in (0.02, 0.03, 0.04, 0.05):
            for per_document, shared in ((1, False), (10, False), (10, True)):
                items = needed_items(
                    lambda n, layout=(flips, per_document, shared): flipped(n, *layout),
                    limit,
                    per_document,
                )
                found = power_of(items, flips, limit, per_document, shared, repeats)
                fate = "shared" if shared else "each by itself"
                rows.append(
                    [f"{limit:.0%}", f"{flips:.0%}", per_document, fate, items, f"{found:.1%}"]
                )
    return rows


def main(words: list[str] | None = None) -> None:
    from tabulate import tabulate

    parser = argparse.ArgumentParser(
        prog="python -m evals.planning_simulation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=REPEATS, help="(%(default)s)")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of limits (%(default)s)")
    options = parser.parse_args(words)
    heads = ["limit", "flips", "items a document", "fate", "planned items", "power"]
    print(tabulate(_plans(options.repeats), heads, "github"))
    print(f"\npromised power: {POWER:.0%}\n")
    heads = ["limits from one draw", "items", "broken by fresh estimates", "by fresh intervals"]
    print(tabulate(_proposals(options.draws), heads, "github"))
    print(f"\nnamed rate: {RATE:.0%}")


if __name__ == "__main__":
    main()
