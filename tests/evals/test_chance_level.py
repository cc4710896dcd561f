"""A gate whose baseline has nothing to lose does not pass: it is not judged."""

import numpy as np
import pytest

from compression_gates.evals.data.items import DataSet, Labelled, Prompt
from compression_gates.evals.gates.gate import FAILED, NOT_JUDGED, PASSED, STRICT, Gate, verdict_of
from compression_gates.evals.metrics.accuracy_drop import accuracy_drop
from compression_gates.evals.metrics.answer_scores import exact_match_drop, f1_drop
from compression_gates.evals.metrics.compression_ratio import compression_ratio
from compression_gates.evals.metrics.confident_flips import confident_flips
from compression_gates.evals.metrics.continuation_changes import continuation_changes
from compression_gates.evals.metrics.continuation_parting import continuation_parting
from compression_gates.evals.metrics.continuation_rouge1_drop import continuation_rouge1_drop
from compression_gates.evals.metrics.flips import flips
from compression_gates.evals.metrics.rouge1_drop import rouge1_drop
from compression_gates.evals.metrics.weighted_score import weighted_score
from tests.evals.scores import scored
from tests.evals.test_continuation import side

CONTINUED = (confident_flips, continuation_changes, continuation_parting, continuation_rouge1_drop)
YES_NO = [Prompt(f"Is {i} prime?", "yes" if i % 3 else "no", i) for i in range(90)]
NAMES = [Prompt(f"Who is {i}?", f"name {i}", i) for i in range(90)]


def answers(items, said):
    return scored(items, continuations=[said(item) for item in items])


def constant(items):
    return answers(items, lambda item: "yes")


def wrong(items):
    return answers(items, lambda item: "nothing at all")


@pytest.mark.parametrize("metric", [exact_match_drop, f1_drop, rouge1_drop])
@pytest.mark.parametrize("make", [constant, wrong])
def test_a_baseline_that_always_says_the_same_has_no_answer_to_lose(metric, make):
    found = metric(make(YES_NO), constant(YES_NO))
    assert "no better than chance" in found.not_judged


@pytest.mark.parametrize("metric", [exact_match_drop, f1_drop, rouge1_drop])
def test_a_baseline_that_knows_something_has(metric):
    known = answers(NAMES, lambda item: item.expected)
    found = metric(known, wrong(NAMES))
    assert not found.not_judged
    assert verdict_of("c", Gate(metric.__name__, 0.02), found).outcome == FAILED


def test_a_baseline_hardly_above_guessing_cannot_break_a_limit():
    """67 % of the answers are yes; 68 % are right, and a model that says yes loses one point."""
    known = answers(YES_NO, lambda item: "no" if item.document == 0 else "yes")
    found = exact_match_drop(known, constant(YES_NO))
    verdict = verdict_of("c", Gate("exact_match_drop", 0.02), found)
    assert (verdict.outcome, verdict.met) == (NOT_JUDGED, False)
    assert "a model that guesses would keep the limit of 2.00 pt" in verdict.reason
    assert not verdict.holds(STRICT)
    assert verdict_of("c", Gate("exact_match_drop", 0.005), found).outcome != NOT_JUDGED


@pytest.mark.parametrize("baseline_right", [54, 55])  # of 60; 54 are of the larger class
def test_a_proven_failure_fails_also_where_the_baseline_hardly_guesses_better(baseline_right):
    labels = [1] * 54 + [0] * 6
    known = [1] * 54 + [0] * (baseline_right - 54) + [1] * (60 - baseline_right)
    found = accuracy_drop(classes(labels, known), classes(labels, [1 - label for label in labels]))
    verdict = verdict_of("c", Gate("accuracy_drop", 0.02), found)
    assert (verdict.outcome, verdict.reason) == (FAILED, "")
    mild = accuracy_drop(classes(labels, known), classes(labels, [1] * 60))
    assert verdict_of("c", Gate("accuracy_drop", 0.02), mild).outcome == NOT_JUDGED


@pytest.mark.parametrize("metric", [exact_match_drop, f1_drop, rouge1_drop])
def test_answers_that_are_all_lost_fail_also_where_the_baseline_only_guesses(metric):
    verdict = verdict_of("c", Gate(metric.__name__, 0.02), metric(constant(YES_NO), wrong(YES_NO)))
    assert verdict.outcome == FAILED


def test_a_constant_prediction_that_becomes_another_fails_on_flips():
    labels = [0, 1] * 30
    found = flips(classes(labels, [0] * 60), classes(labels, [1] * 60))
    assert verdict_of("c", Gate("flips", 0.03), found).outcome == FAILED


def test_numbers_that_are_none_fail_all_the_same():
    known = answers(YES_NO, lambda item: "no" if item.document == 0 else "yes")
    broken = scored(YES_NO, continuations=["yes"] * 90, finite=np.zeros(90, bool))
    found = exact_match_drop(known, broken)
    assert verdict_of("c", Gate("exact_match_drop", 0.02), found).outcome == FAILED


def classes(labels, predicted):
    items = [Labelled(f"t{i}", label, i) for i, label in enumerate(labels)]
    table = np.log(np.where(np.eye(2)[predicted] == 1, 0.9, 0.1))
    return scored(items, log_probabilities=table)


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [([1] * 60, [1] * 60), ([1] * 60, [0, 1] * 30), ([0, 1] * 30, [1] * 60)],
)
def test_accuracy_of_one_class_or_of_a_constant_predictor(labels, predicted):
    found = accuracy_drop(classes(labels, predicted), classes(labels, predicted))
    assert "no better than chance" in found.not_judged


def test_flips_of_a_constant_predictor():
    same = classes([0, 1] * 30, [1] * 60)
    assert "the same class for every text" in flips(same, same).not_judged
    both = classes([0, 1] * 30, [0, 1] * 30)
    assert not flips(both, both).not_judged


def test_choices_that_are_guessed_in_a_log():
    items = [Labelled(f"q{i}", 0, i) for i in range(40)]
    table = np.log(np.full((40, 4), 0.25))
    quarter = scored(items, right=[1.0, 0, 0, 0] * 10, log_probabilities=table)
    half = scored(items, right=[1.0, 0] * 20, log_probabilities=table)
    assert accuracy_drop(quarter, quarter).not_judged
    assert not accuracy_drop(half, quarter).not_judged
    assert accuracy_drop(scored(items, right=[0.0] * 40), half).not_judged


@pytest.mark.parametrize("metric", CONTINUED)
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([(2, -1, -1)] * 20, "ends 20 of 20 continuations after their first token"),
        ([(-1, -1, -1)] * 20, "ends 20 of 20 continuations"),
        ([(2, -1, -1)] * 12 + [(i, 3, 4) for i in range(8)], "ends 12 of 20 continuations"),
        ([(7, 7, 7)] * 20, "continues all of 20 prompts with the same tokens"),
    ],
)
def test_continuations_that_say_nothing(metric, said, told):
    assert told in metric(side(said, choices=said), side(said, choices=said)).not_judged


@pytest.mark.parametrize("metric", CONTINUED)
def test_continuations_of_which_some_are_short_are_judged(metric):
    said = [(2, -1, -1)] * 5 + [(i, 3, 4) for i in range(15)]
    assert not metric(side(said, choices=said), side(said, choices=said)).not_judged


def test_a_weighted_score_without_a_task_to_lose():
    task = exact_match_drop(wrong(NAMES), wrong(NAMES))
    weights = {"task": 0.6, "size": 0.4, "speed": 0.0}
    found = weighted_score(weights, task, compression_ratio(400, 100), None)
    assert "no better than chance" in found.not_judged
    size_alone = {"task": 0.0, "size": 1.0, "speed": 0.0}
    found = weighted_score(size_alone, task, compression_ratio(400, 100), None)
    assert verdict_of("c", Gate("weighted_score", 2.0, size_alone), found).outcome == PASSED


def test_data_of_a_single_item_are_judged():
    one = DataSet("d", tuple(NAMES[:1]))
    assert not exact_match_drop(
        answers(one.items, lambda item: item.expected), wrong(one.items)
    ).not_judged
