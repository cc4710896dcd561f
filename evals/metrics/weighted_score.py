"""Weighted sum of the task's score, the compression ratio and the speedup."""

import math
from collections.abc import Mapping
from dataclasses import replace

from compression_gates.evals.checkpoints.checkpoint import CLASSIFIER
from compression_gates.evals.metrics.accuracy_drop import accuracy_drop
from compression_gates.evals.metrics.answer_scores import NEEDS_ANSWERS, exact_match_drop
from compression_gates.evals.metrics.compression_ratio import (
    LARGEST_RATIO,
    SMALLEST_RATIO,
    ratio_of_pair,
)
from compression_gates.evals.metrics.metric import CHANCE, Metric
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.result import MetricResult, not_judged
from compression_gates.evals.metrics.speedup import (
    LARGEST_SPEEDUP,
    SMALLEST_SPEEDUP,
    speedup_of_pair,
)
from compression_gates.evals.metrics.units import PLAIN
from compression_gates.evals.scores import Pair
from compression_gates.evals.scoring.protocols import FORWARD
from compression_gates.evals.statistics.estimate import Estimate, estimate

PARTS = ("task", "size", "speed")


def weighted_score(
    weights: Mapping[str, float], task: MetricResult, size: MetricResult, speed: MetricResult | None
) -> MetricResult:
    """Return the score ``w_A * A + w_CR * CR + w_IS * IS`` of Study 001.

    The score is that of the candidate alone, so A has the interval of the candidate's own level,
    not that of the paired drop. The parts are independent, so the squares of their half widths are
    added. The baseline's CR and IS are 1. If a part with a weight was not judged, neither is the
    score.

    Args:
        weights: of ``task`` (A, the score of the task, in [0, 1]), ``size`` (CR, the compression
            ratio) and ``speed`` (IS, the speedup).
        task: a drop of the task's score, with the candidate's own score as its level.
        size: a compression ratio.
        speed: a speedup; None if it has no weight.

    Raises:
        ValueError: the task has a weight but no level.
    """
    for name, part in (("task", task), ("speed", speed)):
        if weights[name] and part.not_judged:
            return not_judged(part.not_judged)
    estimates = {"task": task.level, "size": size.estimate, "speed": speed and speed.estimate}
    parts: dict[str, Estimate] = {name: part for name, part in estimates.items() if weights[name]}
    if None in parts.values():
        raise ValueError("a weighted score needs the candidate's own score of the task")
    value = sum(weights[name] * part.value for name, part in parts.items())

    def bounds(level: float) -> tuple[float, float]:
        ends = {n: part.bounds(level) if part.bounds else (part.value,) * 2
                for n, part in parts.items()}  # fmt: skip
        below = math.hypot(*(weights[n] * (parts[n].value - low) for n, (low, _) in ends.items()))
        above = math.hypot(*(weights[n] * (high - parts[n].value) for n, (_, high) in ends.items()))
        return value - below, value + above

    largest = parts.get("task") or max(parts.values(), key=lambda part: part.n)
    score = estimate(value, bounds, largest.n, largest.clusters)
    unreliable = next((part.unreliable for part in parts.values() if part.unreliable), "")
    return MetricResult(
        estimate=replace(score, unreliable=unreliable),
        baseline=weights["task"] * task.baseline + weights["size"] + weights["speed"],
        candidate=value,
        facts={name: part.value for name, part in parts.items()},
    )


def score_of_pair(pair: Pair, weights: Mapping[str, float]) -> MetricResult:
    """Return the weighted score of a pair."""
    speed = speedup_of_pair(pair) if weights["speed"] else None
    return weighted_score(weights, task_drop(pair), ratio_of_pair(pair), speed)


def task_drop(pair: Pair) -> MetricResult:
    """Return the drop of the accuracy for classifiers, and of exact match for other models."""
    role, drop = "answers", exact_match_drop
    if pair.baseline.get("labels") is not None:
        role, drop = "labels", accuracy_drop
    return drop(pair.baseline.get(role), pair.candidate.get(role))


def speedup_needed(
    weights: Mapping[str, float], limit: float, task: MetricResult, size: MetricResult
) -> float:
    """Return the speedup at which :func:`weighted_score` reaches a limit."""
    accuracy = task.baseline - task.estimate.value
    rest = weights["task"] * accuracy + weights["size"] * size.estimate.value
    return (limit - rest) / weights["speed"]


def score_problem(limit: float, weights: Mapping[str, float], guessable: bool = False) -> str:
    """Return why a limit on the weighted score is probably a mistake, or an empty string.

    Args:
        limit: lower limit of the score.
        weights: of ``task``, ``size`` and ``speed``, none below zero.
        guessable: whether a model that guesses is right about some share of the items.
    """
    all_wrong = weights["size"] + weights["speed"]
    perfect = weights["task"] + all_wrong
    advice = (
        f"a perfect baseline reaches {perfect:g}, so for at most 5 % below give {perfect * 0.95:g}"
    )
    if limit <= 0:
        return f"limit = {limit:g} is always reached: no part of the score is below zero; {advice}"
    if weights["task"] and limit <= all_wrong:
        hint = "weights are shares, 60 % is 0.6" if all_wrong > 2 else advice
        return (
            f"limit = {limit:g}: a model of the baseline's size and speed whose every answer is "
            f"wrong reaches {all_wrong:g}; {hint}"
        )
    guessed = all_wrong + CHANCE * weights["task"]
    if guessable and weights["task"] and limit <= guessed:
        return (
            f"limit = {limit:g}: a model of the baseline's size and speed that guesses between two "
            f"classes reaches {guessed:g}; {advice}"
        )
    poorest = SMALLEST_RATIO * weights["size"] + SMALLEST_SPEEDUP * weights["speed"]
    if not weights["task"] and limit <= poorest:
        return (
            f"limit = {limit:g}: a model of {1 / SMALLEST_RATIO:g} times the size that takes "
            f"{1 / SMALLEST_SPEEDUP:g} times as long reaches {poorest:g}; {advice}"
        )
    largest = weights["task"] + LARGEST_RATIO * weights["size"] + LARGEST_SPEEDUP * weights["speed"]
    if limit > largest:
        return (
            f"limit = {limit:g} cannot be reached with these weights; for {limit:g} % give "
            f"{limit / 100:g}"
        )
    return ""


register(Metric(
    name="weighted_score", title="score", label="weighted score",
    promise="the weighted score is at least {limit}", unit=PLAIN, level_unit=PLAIN,
    function=score_of_pair, needs={**NEEDS_ANSWERS, CLASSIFIER: ("labels",)}, order=62,
    at_most=False, quality=False, counted="", workload=FORWARD, parts=PARTS,
    check_limit=score_problem,
))  # fmt: skip
