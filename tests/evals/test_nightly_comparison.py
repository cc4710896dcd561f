"""What got worse since an earlier run, beyond noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from compression_gates.evals.gates.earlier import EarlierRun, Record
from compression_gates.evals.gates.families import BENJAMINI_HOCHBERG
from compression_gates.evals.gates.gate import NOT_JUDGED
from compression_gates.evals.gates.nightly import NIGHTS, compare_runs
from compression_gates.evals.statistics.item_values import MEAN, SCORE_CHANGE, ItemValues
from compression_gates.fixtures.experiments.nightly_simulation import (
    false_alarms,
    reported_losses,
    reported_slowdowns,
)

ORIGIN = {"baseline": "b", "data": "d", "protocol": "p"}


def sampled(values, name="model", metric="exact_match_drop", limit=0.02, documents=None, **origin):
    """A gate on items, with its values."""
    values = np.asarray(values, np.float32)
    units = np.arange(len(values)) if documents is None else np.asarray(documents)
    kind = MEAN if metric in ("js_divergence", "perplexity_drift") else SCORE_CHANGE
    items = ItemValues(kind, values, np.ones(len(values), np.int32), units, ORIGIN | origin)
    found = items.estimate()
    return Record(
        name, metric, limit, found.value, found.low, found.high, 0.95, found.n, items=items
    )


def bare(value, half=0.01, name="model", metric="js_divergence", limit=0.05, **more):
    """A gate of which only the interval is known."""
    return Record(name, metric, limit, value, value - half, value + half, 0.95, 200, **more)


def since(now, then, family="holm"):
    now, then = (x if isinstance(x, list) else [x] for x in (now, then))
    return compare_runs(now, EarlierRun({record.key: record for record in then}), family)


def test_nothing_changed():
    one = sampled([0, 1, 0, 0])
    found = since(one, one)
    (change,) = found.changes
    assert (change.before, change.after, change.p, change.worse) == (0.25, 0.25, 1.0, False)
    assert found.regressions == []
    assert found.lines() == [
        "nothing got worse beyond noise in 1 gate, 1 compared item by item "
        "(Holm: false alarms in at most 1% of months of 30 nights)"
    ]


def test_an_earlier_value_that_is_no_number_is_not_compared():
    none = bare(math.nan)
    found = since([none, sampled([0, 1])], [none, sampled([0, 1])])
    assert [change.metric for change in found.changes] == ["exact_match_drop"]
    assert (
        "not comparable, no finite value in the earlier report: model js_divergence"
        in found.lines()
    )
    assert since(none, bare(0.01)).regressions


def test_three_points_lost_on_the_same_thousand_items_are_told():
    """Independent intervals of the same two runs overlap widely."""
    then = np.zeros(1000)
    then[:40] = 1.0
    now = then.copy()
    now[40:70] = 1.0
    found = since(sampled(now), sampled(then))
    (change,) = found.changes
    assert change.worse
    assert change.paired == 1000
    assert change.p == pytest.approx(stats.binomtest(30, 30, alternative="greater").pvalue)
    assert str(change) == "model exact_match_drop -4.00 pt -> -7.00 pt"
    assert not since(sampled(then), sampled(now)).regressions


def test_a_paired_mean_has_the_p_value_of_a_paired_t_test():
    generator = np.random.default_rng(0)
    then = generator.exponential(0.02, 500)
    now = then + generator.normal(0.003, 0.02, 500)
    found = since(sampled(now, metric="js_divergence"), sampled(then, metric="js_divergence"))
    above = (now - then) - 0.05 * 0.02  # beyond a twentieth of what the gate allows
    expected = stats.ttest_1samp(above, 0.0, alternative="greater").pvalue
    assert found.changes[0].p == pytest.approx(expected, rel=0.3)


def test_a_gain_is_turned_round():
    """Timings are better the higher they are, and so is whatever is held above a limit."""
    then, now = (bare(v, 0.0, metric="compression_ratio", limit=2.0) for v in (3.0, 2.9))
    assert since(now, then).regressions
    assert not since(then, now).regressions


@pytest.mark.parametrize(
    ("metric", "before", "after", "told"),
    [
        ("compression_ratio", 3.0, 3.0 - 1e-7, False),  # one byte
        ("compression_ratio", 3.0, 2.98, False),
        ("compression_ratio", 3.0, 2.96, True),
        ("js_divergence", 0.00001, 0.00004, False),  # told as 0.0000 -> 0.0000
        ("js_divergence", 0.001, 0.003, False),  # a twentieth of the limit is 0.0025
        ("js_divergence", 0.001, 0.004, True),
    ],
)
def test_a_difference_below_the_floor_is_no_news(metric, before, after, told):
    then, now = (bare(value, 0.0, metric=metric) for value in (before, after))
    assert bool(since(now, then).regressions) == told


def test_proven_differences_below_the_floor_are_no_news():
    """Each document a little worse, beyond any doubt, and of no matter."""
    then = np.full(200, 1e-6)
    then[0] = 2e-6
    assert not since(
        sampled(then * 2, metric="js_divergence", limit=0.02),
        sampled(then, metric="js_divergence", limit=0.02),
    ).regressions


def test_without_values_runs_are_independent_and_that_is_said():
    then, now = bare(0.01), sampled(np.full(100, 0.05), metric="js_divergence")
    found = since(now, then)
    assert found.changes[0].paired == 0
    assert (
        "compared as independent runs, the earlier report has no per-item values: "
        "model js_divergence" in found.lines()
    )
    expected = stats.norm.sf((0.04 - 0.05 * 0.02) / (0.01 / stats.norm.ppf(0.975)))
    assert found.changes[0].p == pytest.approx(expected, rel=1e-3)


def test_another_protocol_is_independent_and_that_is_said():
    then, now = sampled([0, 1] * 50, protocol="q"), sampled([0, 1] * 50)
    assert "by another protocol" in since(now, then).lines()[1]


@pytest.mark.parametrize(
    ("origin", "said"),
    [({"data": "other"}, "the data differ"), ({"baseline": "other"}, "the baseline differs")],
)
def test_the_same_name_of_something_else_is_not_compared(origin, said):
    then, now = sampled(np.zeros(1000), **origin), sampled(np.ones(1000))
    found = since(now, then)
    assert found.changes == []
    assert found.lines()[1:] == [f"not comparable, {said}: model exact_match_drop"]


@pytest.mark.parametrize(
    ("part", "said"),
    [("machine", "the machine"), ("baseline", "the baseline"), ("data", "the data")],
)
def test_timings_of_something_else_are_not_compared(part, said):
    then, now = (
        bare(value, 0.01, metric="speedup", origin={part: own})
        for value, own in ((1.0, "one"), (0.5, "two"))
    )
    found = since(now, then)
    assert not found.changes
    assert said in found.lines()[1]
    assert since(now, bare(1.0, metric="speedup", origin={part: "two"})).regressions


@pytest.mark.parametrize(("speed", "told"), [(0.95, False), (0.88, False), (0.7, True)])
def test_a_timing_counts_as_changed_beyond_ten_per_cent(speed, told):
    then, now = (bare(value, 0.005, metric="speedup", limit=0.8) for value in (1.0, speed))
    assert bool(since(now, then).regressions) == told


def test_a_number_that_is_none_any_more_is_worse():
    good, bad = bare(0.01), bare(math.nan)
    assert since(bad, good).regressions
    assert not since(good, bad).regressions


def test_errors_and_what_was_not_judged_take_no_part():
    good = bare(0.01)
    error = Record("model", "js_divergence", 0.05, math.nan, math.nan, math.nan, math.nan, 0)
    unjudged = bare(0.5, outcome=NOT_JUDGED)
    for one, two in ((error, good), (good, error), (unjudged, good), (good, unjudged)):
        found = since(one, two)
        assert found.changes == []
        assert found.lines() == ["no gate has a comparable value in both runs"]


def test_an_interval_that_cannot_be_relied_on_proves_little():
    then, now = bare(0.01, unreliable="few documents"), bare(0.03, unreliable="few documents")
    assert since(now, then).changes[0].p == 1.0
    assert since(bare(0.2, unreliable="few documents"), then).regressions


def test_only_what_stands_out_among_all_is_told():
    names = [f"model-{i}" for i in range(100)]
    then = [bare(0.1, name=name) for name in names]
    # Every gate moves a little, and one by what stands out by itself but not among a hundred.
    chance = [bare(0.1 - 1e-4 + 0.03 * (name == "model-7"), name=name) for name in names]
    assert not since(chance, then).regressions
    assert since(chance[7], then[7]).regressions
    broken = [bare(0.1 + 0.1 * (name == "model-7"), name=name) for name in names]
    found = since(broken, then)
    assert [change.candidate for change in found.regressions] == ["model-7"]
    assert found.changes[0].candidate == "model-7"
    assert found.lines()[0] == (
        "WORSE (Holm: false alarms in at most 1% of months of 30 nights): "
        "model-7 js_divergence 0.1000 nats -> 0.2000 nats"
    )


def test_gates_that_have_not_changed_cost_no_power():
    names = [f"model-{i}" for i in range(100)]
    then = [bare(0.1, name=name) for name in names]
    now = [bare(0.1 + 0.03 * (name == "model-7"), name=name) for name in names]
    assert [change.candidate for change in since(now, then).regressions] == ["model-7"]


def test_the_rate_is_that_of_a_month():
    then = bare(0.1)
    error = 0.01 * math.sqrt(2) / stats.norm.ppf(0.975)
    critical = 0.05 * 0.05 + error * stats.norm.isf(0.01 / NIGHTS)
    assert not since(bare(0.1 + critical * 0.999), then).regressions
    assert since(bare(0.1 + critical * 1.001), then).regressions
    found = since(bare(0.2), then, BENJAMINI_HOCHBERG)
    assert "Benjamini-Hochberg: at most 0.033% of a night's alarms false" in found.lines()[0]


def test_new_and_gone_gates_are_said():
    names = [f"m{i}" for i in range(5)]
    kept = bare(0.1, name="kept")
    found = since([kept, *(bare(0.1, name=name) for name in names)], [kept, bare(0.1, name="old")])
    assert found.lines()[2:] == [
        "not in the earlier report: m0 js_divergence, m1 js_divergence, m2 js_divergence "
        "and 2 more",
        "in the earlier report, but not in this run: old js_divergence",
    ]


def test_a_run_of_other_gates_says_so():
    found = since(bare(0.1, name="new"), bare(0.1, name="old"))
    assert found.lines() == [
        "no gate has a comparable value in both runs",
        "not in the earlier report: new js_divergence",
        "in the earlier report, but not in this run: old js_divergence",
    ]


def test_the_first_night_is_one_line():
    found = compare_runs([bare(0.1)], EarlierRun({}, "no earlier report in x"))
    assert found.lines() == ["no earlier report in x"]


def test_quiet_months_raise_no_alarm():
    """``nightly_simulation`` of the experiments draws a thousand of them."""
    assert false_alarms(10, 0.03) == 0.0


def test_losses_are_found_among_many_gates():
    assert reported_losses(200, 0.03) >= 0.99
    assert reported_losses(50, 0.04, gates=128) >= 0.99
    assert reported_losses(200, 0.0, churn=0.02, gates=1) == 0.0


def test_slowdowns_are_found():
    assert reported_slowdowns(50, 0.6, 0.02) >= 0.98
    assert reported_slowdowns(50, 0.95, 0.02) == 0.0


def test_values_that_are_not_finite_are_not_paired():
    then = sampled([0.0, np.inf, 0.0, 1.0], metric="js_divergence")
    now = sampled([0.0, 1.0, 0.0, 1.0], metric="js_divergence")
    then = replace(then, value=0.5, low=0.4, high=0.6)
    (change,) = since(now, then).changes
    assert not change.paired
    assert 0 <= change.p <= 1
