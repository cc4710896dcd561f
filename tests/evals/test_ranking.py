import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compression_gates.evals.gates.gate import Gate, unmeasured, verdict_of
from compression_gates.evals.metrics.result import MetricResult, not_judged
from compression_gates.evals.report.ranking import (
    DEFAULT_WEIGHTS,
    dominated_by,
    pareto_front,
    rankings,
    ranks,
    weighted_scores,
)
from compression_gates.evals.report.report import Entry
from compression_gates.evals.statistics.estimate import Estimate

# Few distinct values, so that ties and dominated points are common.
VALUES = st.sampled_from([0.0, 0.5, 1.0, 2.0, math.nan])
POINTS = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=VALUES)


def entry(row, metric, value, measured=math.nan, baseline=1.0, passed=True, reason=""):
    estimate = Estimate(value, value, value, 50, 50)
    verdict = verdict_of(f"m-{row}", Gate(metric, 0.5), MetricResult(estimate, baseline, measured))
    return Entry("m", row, verdict, passed, reason)


def candidate(row, quality, size, speed, **outcome):
    return [
        entry(row, "accuracy_drop", 0.9 - quality, quality, 0.9, **outcome),
        entry(row, "compression_ratio", size),
        entry(row, "speedup", speed),
    ]


ENTRIES = [
    *candidate("small", 0.85, 4.0, 1.0),
    *candidate("fast", 0.80, 1.0, 3.0),
    *candidate("worse", 0.79, 1.0, 2.0),
    *candidate("broken", 0.10, 8.0, 9.0, passed=False),
]


def brute_force_dominates(better, point):
    pairs = list(zip(better, point, strict=True))
    return all(b >= p for b, p in pairs) and any(b > p for b, p in pairs)


@given(POINTS)
def test_the_front_is_the_set_of_points_that_no_other_dominates(points):
    front = pareto_front(points)
    for i, point in enumerate(points):
        dominators = [j for j, other in enumerate(points) if brute_force_dominates(other, point)]
        assert np.flatnonzero(dominated_by(points)[i]).tolist() == dominators
        assert front[i] == (not dominators and not np.isnan(point).any())


@given(POINTS)
def test_the_front_dominates_all_other_complete_points(points):
    points = points[~np.isnan(points).any(axis=1)]
    front = pareto_front(points)
    assert front.any() == bool(len(points))
    for point in points[~front]:
        assert any(brute_force_dominates(other, point) for other in points[front])


@given(POINTS, st.randoms())
def test_the_order_of_the_points_does_not_matter(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    assert (pareto_front(points[order]) == pareto_front(points)[order]).all()


@given(arrays(np.float64, (6, 3), elements=st.floats(0.1, 9)),
       arrays(np.float64, 3, elements=st.floats(0.01, 1)))  # fmt: skip
def test_the_highest_score_is_on_the_front(points, weights):
    scores = weighted_scores(points, weights)
    expected = [math.fsum(w * x for w, x in zip(weights, point, strict=True)) for point in points]
    assert scores == pytest.approx(expected)
    best = scores == scores.max()
    front = pareto_front(points)
    # Rounding can give a dominated point the same score as the one that dominates it.
    assert (front & best).any() or np.isclose(scores[front], scores.max()).any()


def test_a_part_without_a_weight_may_be_missing():
    points = [[1.0, math.nan], [2.0, 3.0]]
    assert weighted_scores(points, [1, 0]).tolist() == [1, 2]
    assert np.isnan(weighted_scores(points, [1, 0.1])).tolist() == [True, False]


@given(st.lists(VALUES, max_size=8))
def test_ranks_count_the_higher_scores(scores):
    expected = [None if s != s else 1 + sum(other > s for other in scores) for s in scores]
    assert ranks(scores) == expected


def test_candidates_are_ranked_by_the_weights_of_the_gate():
    [ranking] = rankings(ENTRIES)
    assert ranking.weights == DEFAULT_WEIGHTS
    assert ranking.baseline == {"task": 0.9, "size": 1.0, "speed": 1.0}
    by_row = {standing.row: standing for standing in ranking.standings}
    assert by_row["small"].score == pytest.approx(0.6 * 0.85 + 0.2 * 4 + 0.2 * 1)
    assert [s.row for s in ranking.standings] == ["broken", "small", "fast", "worse"]
    assert [s.rank for s in ranking.standings] == [1, 2, 3, 4]
    assert by_row["worse"].dominated_by == ("fast",)
    assert [by_row[row].on_front for row in ("small", "fast", "worse", "broken")] == [
        True, True, False, True,
    ]  # fmt: skip
    assert ranking.best.row == "small"
    [by_speed] = rankings(ENTRIES, {"m": {"task": 0.0, "size": 0.0, "speed": 1.0}})
    assert [s.row for s in by_speed.standings] == ["broken", "fast", "worse", "small"]
    assert by_speed.best.row == "fast"


def test_a_known_failure_is_ranked_but_is_not_the_best():
    known = candidate("known", 0.89, 9.0, 9.0, passed=False, reason="accepted")
    [ranking] = rankings([*ENTRIES, *known])
    first = ranking.standings[0]
    assert (first.row, first.failed, first.known) == ("known", 0, 1)
    assert ranking.best.row == "small"
    [ranking] = rankings(known)
    assert ranking.best is None


def test_an_axis_that_was_not_judged_is_left_out_and_a_missing_value_is_not_compared():
    unjudged = verdict_of("m-new", Gate("speedup", 0.5), not_judged("no kernels"))
    without_speed = [*candidate("new", 0.9, 9.0, 9.0)[:2], Entry("m", "new", unjudged, True)]
    [ranking] = rankings([*ENTRIES, *without_speed])
    new = ranking.standings[-1]
    assert (new.row, new.rank, new.on_front, new.dominated_by) == ("new", None, None, ())
    assert new.unsure == 1
    [ranking] = rankings(without_speed)
    assert ranking.axes == ("task", "size")
    assert ranking.weights == {"task": 0.6, "size": 0.2, "speed": 0.0}
    assert ranking.standings[0].score == pytest.approx(0.6 * 0.9 + 0.2 * 9)
    assert ranking.standings[0].on_front


def test_without_a_task_quality_is_perplexity_and_without_it_the_divergence():
    perplexity = entry("a", "perplexity_drift", 0.25, measured=5.0, baseline=4.0)
    divergence = entry("a", "js_divergence", 0.1 * math.log(2))
    [ranking] = rankings([divergence, perplexity])
    assert ranking.standings[0].values["task"] == pytest.approx(0.8)
    assert ranking.sources["task"].startswith("perplexity of the baseline")
    [ranking] = rankings([divergence])
    assert ranking.standings[0].values["task"] == pytest.approx(0.9)
    assert ranking.sources["task"].startswith("1 - JS")


def test_a_candidate_that_could_not_be_measured_is_listed_without_a_rank():
    error = Entry("m", "a", unmeasured("m-a", Gate("speedup", 0.8)), passed=False)
    [ranking] = rankings([error])
    assert (ranking.standings[0].rank, ranking.standings[0].failed) == (None, 1)
    assert ranking.best is None
