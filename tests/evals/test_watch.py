"""Tests of one gate over several runs, and the decision over all gates."""

import itertools
import math

import numpy as np
import pytest

from compression_gates.evals.gates.families import FALSE_ALARM_RATE
from compression_gates.evals.gates.nightly import NIGHTS
from compression_gates.evals.gates.watch import (
    DRIFT,
    REFERENCE,
    SHARES,
    STEP,
    Watched,
    decide,
    improved,
    watch,
)
from compression_gates.evals.history.series import positions_of_steps
from tests.evals.test_nightly_comparison import bare, sampled


def series(levels, seed=0, metric="js_divergence", limit=0.1):
    """A gate whose documents vary from run to run around a level."""
    generator = np.random.default_rng(seed)
    return [
        sampled(level * generator.lognormal(-0.02, 0.2, 300), metric=metric, limit=limit)
        for level in levels
    ]


def watched(records) -> Watched:
    return watch(records, positions_of_steps)


def kinds(records) -> set[str]:
    [found] = decide([watched(records)])
    return found


def test_the_shares_are_the_whole():
    assert sum(SHARES.values()) == pytest.approx(1)


def test_two_runs_are_compared_with_each_other_only():
    found = watched(series([0.1, 0.3]))
    assert found.p[REFERENCE] < 1e-6
    assert (found.p[STEP], found.p[DRIFT], found.step, found.drift) == (1.0, 1.0, None, 0)


def test_quiet_runs_raise_no_alarm():
    for seed in range(10):
        assert kinds(series([0.1] * 20, seed)) == set()


def test_identical_runs_are_the_same():
    record = sampled([0.1, 0.2, 0.3] * 20, metric="js_divergence")
    found = watched([record] * 8)
    assert found.same
    assert set(found.p.values()) == {1.0}


def test_a_step_is_dated():
    records = series([0.1] * 12 + [0.13] * 4)
    found = watched(records)
    assert found.step == 12
    assert found.worse_steps == 1
    assert STEP in kinds(records)


@pytest.mark.parametrize(
    ("kind", "levels"),
    [(STEP, [0.1] * 12 + [0.13] * 4), (DRIFT, [0.1 + 0.0012 * n for n in range(16)])],
)
def test_small_divergences_are_tested_as_large_ones_are(kind, levels):
    """A divergence of 1e-4 nats at a limit of 1e-3."""
    large = watched(series(levels))
    small = watched(series([level / 1024 for level in levels], limit=0.1 / 1024))
    assert small.p[kind] == pytest.approx(large.p[kind])
    assert (small.step, small.drift) == (large.step, large.drift)
    assert kind in kinds(series([level / 1024 for level in levels], limit=0.1 / 1024))


def test_a_step_that_was_mended_is_no_alarm():
    records = series([0.1] * 8 + [0.2] * 4 + [0.1] * 3)
    found = watched(records)
    assert found.step is None
    assert kinds(records) == set()


def test_an_improvement_is_no_step_to_the_worse():
    records = series([0.2] * 8 + [0.1] * 4)
    assert watched(records).step is None
    assert kinds(records) == set()
    assert improved([watched(records)]) == [True]


def test_a_gain_falls():
    records = [bare(1.0, 0.0, metric="compression_ratio", limit=0.5)] * 6
    records += [bare(0.9, 0.0, metric="compression_ratio", limit=0.5)] * 3
    found = watched(records)
    assert found.step == 6
    assert {REFERENCE, STEP} <= kinds(records)
    assert watched(records[::-1]).step is None


def test_a_drift_is_found_although_no_night_is_worse_than_the_one_before():
    records = series([0.1 + 0.0012 * n for n in range(16)])
    found = watched(records)
    assert DRIFT in kinds(records)
    assert found.drift in (15, 16)
    assert all(kinds([*pair]) == set() for pair in itertools.pairwise(records))


def test_a_drift_that_was_mended_is_no_alarm():
    records = series([0.1 + 0.003 * n for n in range(16)] + [0.1])
    assert DRIFT not in kinds(records)


def test_values_that_are_no_numbers():
    records = series([0.1] * 8)
    none = bare(math.nan)
    assert kinds([*records, none]) == {REFERENCE}
    assert kinds([*records[:4], none, *records[4:]]) == set()


def test_the_rate_is_spent_on_kinds_and_gates():
    gates = [Watched((f"m{n}", "flips"), dict.fromkeys(SHARES, 1.0)) for n in range(9)]
    for kind, share in SHARES.items():
        critical = FALSE_ALARM_RATE / NIGHTS * share / 10
        for factor, expected in ((0.999, {kind}), (1.001, set())):
            p = dict.fromkeys(SHARES, 1.0) | {kind: critical * factor}
            assert decide([Watched(("m", "flips"), p), *gates])[0] == expected


def test_gates_without_any_change_cost_no_power():
    same = [Watched((f"m{n}", "flips"), dict.fromkeys(SHARES, 1.0), same=True) for n in range(99)]
    p = dict.fromkeys(SHARES, 1.0) | {REFERENCE: FALSE_ALARM_RATE / NIGHTS * SHARES[REFERENCE]}
    assert decide([Watched(("m", "flips"), p), *same])[0] == {REFERENCE}
    assert improved(same) == [False] * 99


def test_nothing_to_decide():
    assert decide([]) == []
    assert improved([]) == []
