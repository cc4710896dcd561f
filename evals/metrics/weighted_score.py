"""One score that weighs what compression saves and gains against the task."""

import math
from collections.abc import Mapping
from dataclasses import replace

from compression_gates.evals.checkpoints.checkpoint import CLASSIFIER
from compression_gates.evals.metrics.accuracy_drop import accuracy_drop
from compression_gates.evals.metrics.answers import ANSWERED, exact_match_drop
from compression_gates.evals.metrics.compression_ratio import (
    LARGEST_RATIO,
    SMALLEST_RATIO,
    ratio_of_pair,
)
from compression_gates.evals.metrics.metric import CHANCE, Metric
from compression_gates.evals.metrics.reading import Reading, not_judged
from compression_gates.evals.metrics.registry import register
from compression_gates.evals.metrics.speedup import LARGEST_SPEEDUP, SMALLEST_SPEEDUP
from compression_gates.evals.metrics.units import PLAIN
from compression_gates.evals.scores import Pair
from compression_gates.evals.statistics.estimate import Estimate, estimate

PARTS = ("task", "size", "speed")


def weighted_score(
    weights: Mapping[str, float], task: Reading, size: Reading, speed: Reading | None
) -> Reading:
    """Study 001's score ``w_A * A + w_CR * CR + w_IS * IS``.

    Args:
        weights: of ``task`` (A, the task's own score, 0 to 1), ``size`` (CR, the compression
            ratio) and ``speed`` (IS, the speedup).
        task: a drop of the task's score, with the candidate's own score as its level.
        size: a compression ratio.
        speed: a speedup, or None where it has no weight.

    Where a part that has a weight was not judged, the score is not judged either.

    The score is of the candidate alone, so its A has the interval of the candidate's own level,
    not that of the paired drop. The parts are independent, so half widths add in squares. The
    baseline's CR and IS are 1.

    Raises:
        ValueError: the task is weighed and has no level.
    """
    for name, part in (("task", task), ("speed", speed)):
        if weights[name] and part.not_judged:
            return not_judged(part.not_judged)
    given = {"task": task.level, "size": size.estimate, "speed": speed and speed.estimate}
    parts: dict[str, Estimate] = {name: part for name, part in given.items() if weights[name]}
    if None in parts.values():
        raise ValueError("a weighted score needs the candidate's own level of the task")
    value = sum(weights[name] * part.value for name, part in parts.items())

    def bounds(level: float) -> tuple[float, float]:
        ends = {n: part.bounds(level) if part.bounds else (part.value,) * 2
                for n, part in parts.items()}  # fmt: skip
        below = math.hypot(*(weights[n] * (parts[n].value - low) for n, (low, _) in ends.items()))
        above = math.hypot(*(weights[n] * (high - parts[n].value) for n, (_, high) in ends.items()))
        return value - below, value + above

    counted = parts.get("task") or max(parts.values(), key=lambda part: part.n)
    found = estimate(value, bounds, counted.n, counted.clusters)
    unreliable = next((part.unreliable for part in parts.values() if part.unreliable), "")
    return Reading(
        estimate=replace(found, unreliable=unreliable),
        baseline=weights["task"] * task.baseline + weights["size"] + weights["speed"],
        candidate=value,
        facts={name: part.value for name, part in parts.items()},
    )


def score_of_pair(pair: Pair, weights: Mapping[str, float]) -> Reading:
    """The weighted score of a pair."""
    speed = pair.speed if weights["speed"] else None
    return weighted_score(weights, task_drop(pair), ratio_of_pair(pair), speed)


def task_drop(pair: Pair) -> Reading:
    """Fall of the task's own score: accuracy of a classifier, exact match of what answers."""
    one, two = pair.baseline, pair.candidate
    if one.get("labels") is not None:
        return accuracy_drop(one["labels"], two["labels"])
    return exact_match_drop(one.get("answers"), two.get("answers"))


def speedup_needed(
    weights: Mapping[str, float], limit: float, task: Reading, size: Reading
) -> float:
    """The speedup at which :func:`weighted_score` reaches a limit, if speed has a weight."""
    kept = task.baseline - task.estimate.value
    rest = weights["task"] * kept + weights["size"] * size.estimate.value
    return (limit - rest) / weights["speed"]


def score_problem(limit: float, weights: Mapping[str, float], guessable: bool = False) -> str:
    """Why a limit on the weighted score ``w_task A + w_size CR + w_speed IS`` cannot be meant, or
    nothing.

    Args:
        limit: at least this is promised.
        weights: of ``task``, ``size`` and ``speed``, none below zero.
        guessable: whether a model that guesses is right about some share of the items.
    """
    worthless = weights["size"] + weights["speed"]
    perfect = weights["task"] + worthless
    meant = (
        f"a perfect baseline reaches {perfect:g}, so for at most 5 % below give {perfect * 0.95:g}"
    )
    if limit <= 0:
        return f"limit = {limit:g} is always reached: no part of the score is below zero; {meant}"
    if weights["task"] and limit <= worthless:
        hint = "weights are shares, 60 % is 0.6" if worthless > 2 else meant
        return (
            f"limit = {limit:g}: a model of the baseline's size and speed whose every answer is "
            f"wrong reaches {worthless:g}; {hint}"
        )
    guessed = worthless + CHANCE * weights["task"]
    if guessable and weights["task"] and limit <= guessed:
        return (
            f"limit = {limit:g}: a model of the baseline's size and speed that guesses between two "
            f"classes reaches {guessed:g}; {meant}"
        )
    poorest = SMALLEST_RATIO * weights["size"] + SMALLEST_SPEEDUP * weights["speed"]
    if not weights["task"] and limit <= poorest:
        return (
            f"limit = {limit:g}: a model of {1 / SMALLEST_RATIO:g} times the size that takes "
            f"{1 / SMALLEST_SPEEDUP:g} times as long reaches {poorest:g}; {meant}"
        )
    largest = weights["task"] + LARGEST_RATIO * weights["size"] + LARGEST_SPEEDUP * weights["speed"]
    if limit > largest:
        meant = f"for {limit:g} % give {limit / 100:g}"
        return f"limit = {limit:g} cannot be reached with these weights; {meant}"
    return ""


register(Metric(
    name="weighted_score", title="score", label="weighted score",
    promise="the weighted score is at least {limit}", unit=PLAIN, level_unit=PLAIN,
    function=score_of_pair, needs={**ANSWERED, CLASSIFIER: ("labels",)}, order=62, at_most=False,
    quality=False, counted="", timed=True, parts=PARTS, check_limit=score_problem,
))  # fmt: skip
