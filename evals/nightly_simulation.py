"""How often the comparison with an earlier run is wrong, and what it finds.

    python -m evals.nightly_simulation [--months N]

A month of nights on which nothing got worse is drawn: every night the candidates are made anew, so
that some answers are lost and as many gained, and every timing comes out a little otherwise. Then
single losses are drawn on items that both nights share.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from evals.earlier import Earlier, Record
from evals.items import MEAN, SHARE, ItemValues
from evals.nightly import NIGHTS, compared
from evals.sequential import sequential_median

SPEED_GATES, QUALITY_GATES = 28, 100
ITEMS, DOCUMENTS, PAIRS = 1000, 160, 15
CHURN = 0.02
"""Answers that are lost from one night to the next, and as many that are gained."""
LIMIT, SPEED_LIMIT = 0.02, 0.8
WORTH_A_TEST = 3.5
"""Standard errors below which no gate can stand out among so many; its p-value is left out."""
ORIGIN = {"baseline": "b", "data": "d", "protocol": "p"}


def quiet_month(
    generator: np.random.Generator, night_noise: float, nights: int = NIGHTS
) -> Iterator[tuple[list[Record], Earlier]]:
    """Pairs of successive nights on which nothing got worse.

    Args:
        generator: of everything random.
        night_noise: relative standard deviation of a timing from night to night.
        nights: how many pairs.
    """
    timings = _timings(generator, night_noise, nights + 1)
    for night in range(nights):
        quality = [*_answers(generator, QUALITY_GATES // 2), *_means(generator, QUALITY_GATES // 2)]
        before = [*(then for then, _ in quality), *timings[night]]
        after = [*(now for _, now in quality), *timings[night + 1]]
        yield after, Earlier({record.key: record for record in before})


def false_alarms(months: int, night_noise: float, seed: int = 0) -> float:
    """Share of quiet months that have a night with an alarm."""
    generator = np.random.default_rng(seed)
    alarmed = 0
    for _ in range(months):
        nights = quiet_month(generator, night_noise)
        alarmed += any(compared(*night).regressions for night in nights)
    return alarmed / months


def found_losses(
    repeats: int, lost: float, churn: float = 0.0, gates: int = 1, items: int = ITEMS, seed: int = 0
) -> float:
    """Share of losses that are told.

    Args:
        repeats: losses that are drawn.
        lost: share of the answers that were right and are wrong, beside the churn.
        churn: share that is lost and share that is gained for no reason.
        gates: how many gates are judged together; the others have changed, and not for the worse.
        items: answers of a gate.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    others = [_quiet(f"other-{i}", "exact_match_drop") for i in range(gates - 1)]
    then = _record("model", np.zeros(items), SHARE)
    found = 0
    for _ in range(repeats):
        drawn = generator.random(items)
        values = (drawn < lost + churn).astype(float) - (drawn > 1 - churn)
        now = _record("model", values, SHARE)
        earlier = Earlier({record.key: record for record in (then, *(old for old, _ in others))})
        found += bool(compared([now, *(new for _, new in others)], earlier).regressions)
    return found / repeats


def found_slowdowns(repeats: int, speed: float, night_noise: float, seed: int = 0) -> float:
    """Share of runs that tell that one candidate's speed has fallen to ``speed`` of what it was."""
    generator = np.random.default_rng(seed)
    found = 0
    for _ in range(repeats):
        then, now = _timings(generator, night_noise, 2, [1.0, speed])
        earlier = Earlier({record.key: record for record in then})
        found += bool(compared([now[0], *then[1:]], earlier).regressions)
    return found / repeats


def _record(name: str, values: np.ndarray, kind: str) -> Record:
    metric = "exact_match_drop" if kind == SHARE else "js_divergence"
    units = np.arange(len(values), dtype=np.int32)
    items = ItemValues(
        kind, values.astype(np.float32), np.ones(len(values), np.int32), units, ORIGIN
    )
    mean = float(values.mean())
    return Record(name, metric, LIMIT, mean, mean, mean, 0.95, len(values), items=items)


def _quiet(name: str, metric: str) -> tuple[Record, Record]:
    then, now = (Record(name, metric, LIMIT, v, v, v, 0.95, ITEMS) for v in (0.01, 0.0))
    return then, now


def _answers(generator: np.random.Generator, gates: int) -> Iterator[tuple[Record, Record]]:
    """Two nights of gates on right answers, of which :data:`CHURN` go and as many come."""
    losses = generator.binomial(ITEMS, CHURN, gates)
    gains = generator.binomial(ITEMS - losses, CHURN / (1 - CHURN))
    for gate, (lost, gained) in enumerate(zip(losses, gains, strict=True)):
        name = f"answers-{gate}"
        if lost - gained < WORTH_A_TEST * np.sqrt(lost + gained):
            yield _quiet(name, "exact_match_drop")
            continue
        values = np.zeros(ITEMS)
        values[:lost], values[lost : lost + gained] = 1.0, -1.0
        yield _record(name, np.zeros(ITEMS), SHARE), _record(name, values, SHARE)


def _means(generator: np.random.Generator, gates: int) -> Iterator[tuple[Record, Record]]:
    """Two nights of gates on divergences, lognormal over documents and drawn anew each night."""
    then, now = 0.01 * generator.lognormal(0.0, 1.0, (2, gates, DOCUMENTS))
    rises = now - then
    errors = rises.std(axis=1, ddof=1) / np.sqrt(DOCUMENTS)
    for gate, rise in enumerate(rises):
        name = f"divergence-{gate}"
        if rise.mean() < WORTH_A_TEST * errors[gate]:
            yield _quiet(name, "js_divergence")
        else:
            yield _record(name, then[gate], MEAN), _record(name, now[gate], MEAN)


def _timings(
    generator: np.random.Generator,
    night_noise: float,
    nights: int,
    speeds: list[float] | None = None,
) -> list[list[Record]]:
    """For each night a timing of each candidate: pairs mostly quiet, sometimes disturbed."""
    shape = (nights, SPEED_GATES, PAIRS)
    ratios = generator.lognormal(0.0, 0.03, shape) * np.exp(generator.standard_t(2, shape) * 0.02)
    ratios *= generator.lognormal(0.0, night_noise, (nights, SPEED_GATES, 1))
    ratios *= np.reshape(speeds or [1.0] * nights, (nights, 1, 1))
    return [
        [_timing(f"speed-{gate}", own) for gate, own in enumerate(night)] for night in ratios
    ]  # fmt: skip


def _timing(name: str, ratios: np.ndarray) -> Record:
    found = sequential_median(ratios, looks=1)
    origin = {"baseline": "b", "data": "d", "machine": "m"}
    return Record(
        name, "speedup", SPEED_LIMIT, found.value, found.low, found.high, 0.95, PAIRS, origin=origin
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evals.nightly_simulation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--months", type=int, default=300, help="(%(default)s)")
    months = parser.parse_args(words).months
    gates = SPEED_GATES + QUALITY_GATES
    for noise in (0.01, 0.02, 0.03, 0.04):
        print(
            f"{false_alarms(months, noise):.1%} of {months} quiet months of {NIGHTS} nights x "
            f"{gates} gates have a false alarm, where timings differ by {noise:.0%} between nights"
        )
    for lost, churn, together in ((0.03, 0, 1), (0.03, 0, gates), (0.03, 0.005, gates),
                                  (0.05, 0.005, gates), (0.05, 0.02, gates)):  # fmt: skip
        share = found_losses(months, lost, churn, together)
        print(
            f"{share:.1%} of losses of {lost:.0%} of {ITEMS} identical items are told "
            f"(churn {churn:.1%} each way, {together} gates)"
        )
    for speed in (0.8, 0.7, 0.6):
        share = found_slowdowns(months, speed, 0.02)
        print(f"{share:.1%} of falls of a speed to {speed:g} of what it was are told")


if __name__ == "__main__":
    main()
