"""Means of several runs, and whether they got worse."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from compression_gates.evals.gates.earlier import Record
from compression_gates.evals.gates.rises import TIMING_NOISE, TIMING_THRESHOLD, mean_record, p_worse
from compression_gates.evals.statistics.changes import sign_flip_test
from tests.evals.test_nightly_comparison import bare, sampled


def runs_of(generator, count, lost=0.0, items=400):
    return [
        sampled((generator.random(items) < lost + 0.02) * 1.0 - (generator.random(items) < 0.02))
        for _ in range(count)
    ]


def test_the_mean_of_one_run_is_that_run():
    record = sampled([0, 1, 0, 1])
    assert mean_record([record]) is record


def test_items_are_averaged_one_by_one():
    records = [sampled([0, 1, 0, 1]), sampled([0, 0, 0, 1]), sampled([0, 0, 0, 1])]
    mean = mean_record(records)
    np.testing.assert_allclose(mean.items.values, [0, 1 / 3, 0, 1])
    assert mean.value == pytest.approx(1 / 3)
    assert mean.runs == 3


def test_other_items_are_not_averaged():
    mean = mean_record([sampled([0, 1, 0, 1]), sampled([0, 1, 0])])
    assert mean.items is None
    assert mean.value == pytest.approx((0.5 + 1 / 3) / 2)


def test_whole_changes_of_means_get_the_exact_test():
    generator = np.random.default_rng(0)
    before, after = runs_of(generator, 3), runs_of(generator, 2, lost=0.05)
    p = p_worse(mean_record(after), mean_record(before))
    counts = 3 * sum(r.items.values for r in after) - 2 * sum(r.items.values for r in before)
    assert p == pytest.approx(sign_flip_test(np.rint(counts).astype(int)))
    assert p < 0.01


@pytest.mark.parametrize("power", [-20, -10, 10])
def test_p_values_do_not_depend_on_the_unit(power):
    """Changes of every document that are much smaller than 1 are not rounded to none."""
    generator = np.random.default_rng(1)
    levels = [0.3] * 6 + [0.4] * 6
    drawn = [level * generator.lognormal(-0.02, 0.2, 300) for level in levels]

    def p_of(scale: float) -> float:
        records = [sampled(scale * values, metric="js_divergence", limit=scale) for values in drawn]
        return p_worse(mean_record(records[6:]), mean_record(records[:6]))

    assert p_of(2.0**power) == pytest.approx(p_of(1.0))
    assert p_of(1.0) < 1e-6


def test_means_of_graded_answers_have_the_interval_of_any_numbers():
    generator = np.random.default_rng(2)
    drawn = generator.random((4, 300)) / 3 + [[0.0], [0.0], [0.1], [0.1]]
    answers = [sampled(values) for values in drawn]
    numbers = [sampled(values, metric="js_divergence") for values in drawn]
    p_of_answers, p_of_numbers = (
        p_worse(mean_record(records[2:]), mean_record(records[:2]))
        for records in (answers, numbers)
    )
    assert p_of_answers == pytest.approx(p_of_numbers)
    assert p_of_answers < 1e-6


def test_documents_are_flipped_as_a_whole():
    documents = np.repeat(np.arange(50), 4)
    before = [sampled(np.zeros(200), documents=documents) for _ in range(2)]
    worse = np.where(documents < 10, 1.0, 0.0)
    after = [sampled(worse, documents=documents) for _ in range(2)]
    assert p_worse(mean_record(after), mean_record(before)) == pytest.approx(2**-10)


def test_means_of_quiet_runs_are_rarely_worse():
    """The p-values of the exact test are at least uniform."""
    generator = np.random.default_rng(3)
    p_values = [
        p_worse(mean_record(runs_of(generator, 3)), mean_record(runs_of(generator, 3)))
        for _ in range(300)
    ]
    rejected = sum(p < 0.05 for p in p_values)
    assert stats.binomtest(rejected, 300, 0.05, alternative="greater").pvalue > 1e-3


def test_a_gain_of_means_is_turned_round():
    slow = mean_record([bare(v, 0.005, metric="speedup", limit=0.8) for v in (0.6, 0.62)])
    fast = mean_record([bare(v, 0.005, metric="speedup", limit=0.8) for v in (1.0, 1.02)])
    assert p_worse(slow, fast) < 1e-6
    assert p_worse(fast, slow) == 1.0


@pytest.mark.parametrize("runs", [1, 4])
def test_the_noise_between_nights_is_averaged(runs):
    then, now = (
        mean_record([bare(v, 0.0, metric="speedup", limit=0.8)] * runs) for v in (1.0, 0.85)
    )
    fall = math.log(1 / 0.85) + math.log1p(-TIMING_THRESHOLD)
    expected = stats.norm.sf(fall / (TIMING_NOISE * math.sqrt(2 / runs)))
    assert p_worse(now, then) == pytest.approx(expected)


def test_a_mean_is_as_unreliable_as_its_runs():
    records = [bare(0.1), bare(0.1, unreliable="few documents")]
    assert mean_record(records).unreliable == "few documents"


def test_intervals_that_runs_share_are_not_narrowed():
    mean = mean_record([bare(0.1, half=0.02)] * 9)
    assert (mean.low, mean.high) == pytest.approx((0.08, 0.12))


def test_a_value_that_is_none_now_is_rejected_and_one_that_was_none_is_not():
    none = Record("model", "js_divergence", 0.05, math.nan, math.nan, math.nan, math.nan, 10)
    assert math.isnan(p_worse(none, bare(0.01)))
    assert p_worse(bare(0.01), none) == 1.0
    assert p_worse(replace(bare(0.5), items=None), bare(0.01)) < 1e-6
