"""Ranking of candidates by size, speed and quality: weighted score and Pareto front.

A candidate is *dominated* if another one is at least as good on every axis and better on one. The
Pareto front is the set of candidates that are not dominated: each is the best choice for some
weighting of the axes or some bound on them. Both use point estimates. Larger is better on every
axis.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.gates.gate import INCONCLUSIVE, NOT_JUDGED, Verdict
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.weighted_score import PARTS
from compression_gates.evals.report.report import Entry

DEFAULT_WEIGHTS: Mapping[str, float] = {"task": 0.6, "size": 0.2, "speed": 0.2}
"""Weights of Study 001, used if the profile has no gate on the weighted score. Quality has the
largest weight, because a small or fast model that answers wrongly is of no use; size and speed have
equal weights, because which of them matters more depends on where the model runs."""
AXIS_TITLES: Mapping[str, str] = {"task": "quality", "size": "size", "speed": "speed"}
_SIZE = ("compression_ratio",)
_SPEED: Mapping[str, str] = {"speedup": "a forward pass", "decode_speedup": "decoding"}
_PERPLEXITY = ("perplexity_drift", "word_perplexity_drift", "byte_perplexity_drift")
_DIVERGENCE = "js_divergence"


@dataclass(frozen=True)
class Standing:
    """A candidate among those of the same baseline.

    Attributes:
        candidate, row: its name, and its name in the table of its baseline.
        values: by axis of :data:`evals.metrics.weighted_score.PARTS`; NaN if it was not judged.
        score: weighted sum; NaN if a part with a weight was not judged.
        rank: 1 for the highest score; None without a score.
        on_front: whether no other candidate dominates it; None if an axis was not judged.
        dominated_by: the names of the candidates that dominate it.
        failed, known, unsure: numbers of its gates that failed without being known to, that are
            known failures, and that are inconclusive or were not judged.
    """

    candidate: str
    row: str
    values: Mapping[str, float]
    score: float
    rank: int | None
    on_front: bool | None
    dominated_by: tuple[str, ...]
    failed: int
    known: int
    unsure: int

    @property
    def passed_all(self) -> bool:
        """Whether no gate failed. A known failure is also a failed gate."""
        return self.failed == self.known == 0


@dataclass(frozen=True)
class Ranking:
    """The candidates of one baseline, the highest score first, those without a score last.

    Attributes:
        group: the baseline.
        axes: the axes on which at least one candidate was judged.
        sources: for each of these axes, what it is, such as ``accuracy``.
        weights: of the axes; 0 for an axis on which nothing was judged.
        baseline: values of the baseline itself, by axis.
        standings: of the candidates.
    """

    group: str
    axes: tuple[str, ...]
    sources: Mapping[str, str]
    weights: Mapping[str, float]
    baseline: Mapping[str, float]
    standings: tuple[Standing, ...]

    @property
    def best(self) -> Standing | None:
        """The candidate with the highest score among those without a failed gate."""
        eligible = (s for s in self.standings if s.rank is not None and s.passed_all)
        return next(eligible, None)


def dominated_by(points: ArrayLike) -> np.ndarray:
    """Return which points dominate which.

    Args:
        points: ``(n, axes)``, larger is better; a point with NaN neither dominates nor is
            dominated.

    Returns:
        ``(n, n)`` booleans; ``[i, j]`` is whether point ``j`` dominates point ``i``.
    """
    points = np.asarray(points, dtype=np.float64)
    mine, other = points[:, None, :], points[None, :, :]
    # A comparison with NaN is false.
    return (other >= mine).all(axis=2) & (other > mine).any(axis=2)


def pareto_front(points: ArrayLike) -> np.ndarray:
    """Return which points are not dominated: ``(n,)`` booleans for ``(n, axes)`` points.

    Points with NaN are not on the front.
    """
    points = np.asarray(points, dtype=np.float64)
    return ~dominated_by(points).any(axis=1) & ~np.isnan(points).any(axis=1)


def weighted_scores(points: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """Return the weighted sums ``(n,)`` of ``(n, axes)`` points.

    A sum is NaN if a value with a weight other than 0 is NaN.
    """
    points, weights = np.asarray(points, np.float64), np.asarray(weights, np.float64)
    used = weights != 0
    return points[:, used] @ weights[used]


def ranks(scores: ArrayLike) -> list[int | None]:
    """Return the rank of each score, 1 for the highest; equal scores share one, NaN has none."""
    scores = np.asarray(scores, dtype=np.float64)
    return [None if math.isnan(s) else 1 + int((scores > s).sum()) for s in scores.tolist()]


def rankings(
    entries: Sequence[Entry], weights: Mapping[str, Mapping[str, float]] | None = None
) -> list[Ranking]:
    """Return a ranking for each baseline.

    Args:
        entries: the verdicts.
        weights: by baseline, those of its gate on the weighted score; :data:`DEFAULT_WEIGHTS` for
            a baseline without one.
    """
    groups = dict.fromkeys(entry.group for entry in entries)
    return [
        _ranking(group, [e for e in entries if e.group == group], (weights or {}).get(group))
        for group in groups
    ]


def _ranking(group: str, entries: Sequence[Entry], weights: Mapping[str, float] | None) -> Ranking:
    verdicts: dict[str, dict[str, Verdict]] = {}
    for entry in entries:
        if entry.verdict.outcome != NOT_JUDGED:
            verdicts.setdefault(entry.verdict.metric, {})[entry.row] = entry.verdict
    names = list(dict.fromkeys(entry.row for entry in entries))
    chosen = {
        axis: metric
        for axis, metrics in (("task", _quality_metrics()), ("size", _SIZE), ("speed", _SPEED))
        if (metric := _first_judged(verdicts, metrics))
    }
    points = np.array(
        [
            [_value(axis, verdicts.get(chosen.get(axis, ""), {}).get(name)) for axis in PARTS]
            for name in names
        ]
    ).reshape(len(names), len(PARTS))
    weights = {
        axis: float((weights or DEFAULT_WEIGHTS)[axis]) if axis in chosen else 0.0 for axis in PARTS
    }
    shown = points[:, [index for index, axis in enumerate(PARTS) if axis in chosen]]
    scores = weighted_scores(points, [weights[axis] for axis in PARTS])
    if not any(weights.values()):
        scores = np.full(len(names), math.nan)
    dominators, front = dominated_by(shown), pareto_front(shown) & bool(chosen)
    is_complete = ~np.isnan(shown).any(axis=1) & bool(chosen)
    order = np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable")
    placed = ranks(scores)
    by_row = {name: [e for e in entries if e.row == name] for name in names}
    standings = tuple(
        Standing(
            candidate=by_row[names[i]][0].verdict.candidate,
            row=names[i],
            values=dict(zip(PARTS, points[i].tolist(), strict=True)),
            score=float(scores[i]),
            rank=placed[i],
            on_front=bool(front[i]) if is_complete[i] else None,
            dominated_by=tuple(names[j] for j in np.flatnonzero(dominators[i])),
            failed=sum(not e.passed and not e.reason for e in by_row[names[i]]),
            known=sum(not e.passed and bool(e.reason) for e in by_row[names[i]]),
            unsure=sum(e.verdict.outcome in (INCONCLUSIVE, NOT_JUDGED) for e in by_row[names[i]]),
        )
        for i in order.tolist()
    )
    return Ranking(
        group=group,
        axes=tuple(axis for axis in PARTS if axis in chosen),
        sources={axis: source_of(metric) for axis, metric in chosen.items()},
        weights=weights,
        baseline=_baseline(chosen, verdicts),
        standings=standings,
    )


def _quality_metrics() -> list[str]:
    """Return the measures of quality, the preferred ones first: the score of a task, perplexity,
    and divergence."""
    tasks = [name for name, metric in METRICS.items() if metric.is_task and metric.level_unit]
    return [*tasks, *_PERPLEXITY, _DIVERGENCE]


def _first_judged(
    verdicts: Mapping[str, Mapping[str, Verdict]], metrics: Iterable[str]
) -> str | None:
    """Return the first of ``metrics`` that was judged for any candidate."""
    return next((metric for metric in metrics if verdicts.get(metric)), None)


def _value(axis: str, verdict: Verdict | None) -> float:
    """Return a verdict's number on an axis on which larger is better."""
    if verdict is None:
        return math.nan
    if axis != "task":
        return verdict.value
    if verdict.metric in _PERPLEXITY:
        return verdict.baseline / verdict.measured if verdict.measured else math.nan
    if verdict.metric == _DIVERGENCE:
        return 1 - verdict.value / math.log(2)
    return verdict.measured


def _baseline(
    chosen: Mapping[str, str], verdicts: Mapping[str, Mapping[str, Verdict]]
) -> dict[str, float]:
    values = dict.fromkeys(chosen, 1.0)  # a ratio or a speedup of the baseline against itself
    metric = chosen.get("task")
    if metric and METRICS[metric].is_task:
        levels = [verdict.baseline for verdict in verdicts[metric].values()]
        values["task"] = next((level for level in levels if not math.isnan(level)), math.nan)
    return values


def source_of(metric: str) -> str:
    """Return what the axis of a metric shows."""
    if metric in _PERPLEXITY:
        return f"{METRICS[metric].title} of the baseline, divided by that of the candidate"
    if metric == _DIVERGENCE:
        return "1 - JS divergence / ln 2"
    if metric in _SPEED:
        return _SPEED[metric]
    return METRICS[metric].title if METRICS[metric].is_task else METRICS[metric].label
