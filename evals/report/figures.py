"""The data of the figures of a report, as pure functions of its entries.

A :class:`evals.report.figure_data.Figure` describes what is shown, not how: the page draws it with
Plotly, and :mod:`evals.report.static_figures` as SVG or PNG. Numbers are in displayed units.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from compression_gates.evals.gates.gate import NOT_JUDGED, Verdict
from compression_gates.evals.history.series import GateSeries
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.units import counted
from compression_gates.evals.report.figure_data import BARS, LINES, POINTS, Figure, Mark, Series
from compression_gates.evals.report.ranking import Ranking, rankings
from compression_gates.evals.report.report import Entry
from compression_gates.evals.statistics.item_values import ItemValues, Key

MOST_LIMITS = 10.0
"""Largest rise of perplexity in a figure, in multiples of its limit; others are at the edge."""
MOST_BARS, MOST_LINES = 60, 12
"""Largest numbers of bars and of lines by candidate; the worst ones are kept."""
QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
LOG_RANGE = 30
"""Ratio of the largest to the smallest value above which a divergence has a logarithmic axis."""
MOST_TICKS = 6
METHOD_WIDTH = 0.6
"""Width over which the candidates of a method are spread, in distances between methods."""
SMALLEST_DIVERGENCE = 1e-7
"""Nats to which smaller divergences are raised in a distribution; float32 has this precision."""
_PERPLEXITY, _DIVERGENCE = "perplexity_drift", "js_divergence"


def figures(
    entries: Sequence[Entry],
    items: Mapping[Key, ItemValues] | None = None,
    ranked: Sequence[Ranking] | None = None,
    trends: Iterable[GateSeries] = (),
) -> list[Figure]:
    """Return the figures for which there are data.

    Args:
        entries: the verdicts.
        items: per-item values by candidate and metric, for the distribution of the divergence.
        ranked: from :func:`evals.report.ranking.rankings`; default from ``entries``.
        trends: over the runs of a history; those with a step are drawn.
    """
    judged = [e for e in entries if e.verdict.outcome != NOT_JUDGED and _is_number(e.verdict)]
    ranked = rankings(entries) if ranked is None else ranked
    drawn = [
        perplexity_against_task(judged),
        size_against_quality(ranked),
        parallel_coordinates(ranked),
        *task_scores(judged),
        divergence_by_method(judged),
        divergence_quantiles(items or {}),
        *(trend_figure(trend) for trend in trends if trend.steps),
    ]
    return [figure for figure in drawn if figure is not None]


def task_scores(entries: Sequence[Entry]) -> list[Figure]:
    """Return for each task a figure of the scores of all candidates and of their baselines."""
    drawn = []
    for name, metric in METRICS.items():
        if not metric.is_task or metric.level_unit is None:
            continue
        chosen = _of_metric(entries, name)
        if not chosen:
            continue
        worst = sorted(chosen, key=lambda e: e.verdict.measured)[:MOST_BARS]
        kept = [entry for entry in chosen if entry in worst]
        series = tuple(_task_bars(group, kept, metric) for group in _groups(kept))
        note = (
            "Error bars: interval of the paired difference from the baseline, which is also what "
            "the gate judges."
        )
        if len(kept) < len(chosen):
            note += f" The {len(kept)} lowest of {len(chosen)} scores are shown."
        title = f"{metric.title[:1].upper()}{metric.title[1:]} of candidates and baselines"
        drawn.append(
            Figure(f"task-{_file_name(name)}", title, BARS, _level_axis(metric), "", series, note)
        )
    return drawn


def _task_bars(group: str, entries: Sequence[Entry], metric: Metric) -> Series:
    members = sorted(
        (e.verdict for e in entries if e.group == group), key=lambda v: v.measured, reverse=True
    )
    scale, base = metric.level_unit.scale, members[0].baseline
    scores = [base, *(v.measured for v in members)]
    low = [base, *(v.baseline - v.high for v in members)]
    high = [base, *(v.baseline - v.low for v in members)]
    return Series(
        name=group,
        x=_scaled(scores, scale),
        y=(),
        labels=(f"{group} (baseline)", *(v.candidate for v in members)),
        low=_scaled(low, scale),
        high=_scaled(high, scale),
    )


def size_against_quality(ranked: Sequence[Ranking]) -> Figure | None:
    """Return the scatter plot of compression ratio and quality, with the Pareto front marked."""
    shown = [r for r in ranked if {"size", "task"} <= set(r.axes)]
    series = []
    for ranking in shown:
        found = ((s, s.values["size"] + s.values["task"]) for s in ranking.standings)
        points = [s for s, total in found if not math.isnan(total)]
        if not points:
            continue
        series.append(
            Series(
                name=ranking.group,
                x=tuple(s.values["size"] for s in points),
                y=_scaled([s.values["task"] for s in points], 100),
                labels=tuple(s.candidate for s in points),
                marked=tuple(bool(s.on_front) for s in points),
            )
        )
    if not series:
        return None
    axes = ", ".join(dict.fromkeys(_axes_text(ranking) for ranking in shown))
    return Figure(
        "size-quality", "Size against quality", POINTS, "compression ratio (x)",
        f"{_quality_text(shown)} (%)", tuple(series),
        f"A star marks candidates on the Pareto front of {axes}: no other candidate of the same "
        "baseline is at least as good on each of these and better on one.",
    )  # fmt: skip


def parallel_coordinates(ranked: Sequence[Ranking]) -> Figure | None:
    """Return the figure in which each candidate is a line over size, quality and speed.

    Each axis runs from the smallest to the largest value of all candidates.
    """
    shown = [r for r in ranked if len(r.axes) > 1]
    axes = [axis for axis in ("size", "task", "speed") if any(axis in r.axes for r in shown)]
    values = {
        axis: [s.values[axis] for r in shown for s in r.standings if not math.isnan(s.values[axis])]
        for axis in axes
    }
    axes = [axis for axis in axes if values[axis]]
    if len(axes) < 2:
        return None
    series = []
    for ranking in shown:
        x, y, labels = [], [], []
        for standing in ranking.standings:
            if any(math.isnan(standing.values[axis]) for axis in axes):
                continue
            x += [*range(len(axes)), len(axes) - 1]
            y += [_position(standing.values[axis], values[axis]) for axis in axes] + [math.nan]
            labels += [standing.candidate] * (len(axes) + 1)
        if x:
            series.append(Series(ranking.group, tuple(x), tuple(y), tuple(labels)))
    if not series:
        return None
    texts = {"size": "size", "speed": "speed", "task": "quality"}
    ticks = tuple(
        (float(index), f"{texts[axis]}\n{_end(axis, min(values[axis]))}\nto "
         f"{_end(axis, max(values[axis]))}")
        for index, axis in enumerate(axes)
    )  # fmt: skip
    return Figure(
        "parallel", "Size, quality and speed of each candidate", LINES, "",
        "position between smallest (0) and largest (1)", tuple(series),
        f"One line per candidate; higher is better on every axis. Quality: {_quality_text(shown)}.",
        ticks,
    )  # fmt: skip


def divergence_by_method(entries: Sequence[Entry]) -> Figure | None:
    """Return the Jensen-Shannon divergences, by the methods of the candidates."""
    chosen = _of_metric(entries, _DIVERGENCE)
    if not chosen:
        return None
    methods = sorted({method_of(entry.row) for entry in chosen})
    places: dict[str, float] = {}
    for index, method in enumerate(methods):
        # Side by side, because intervals at one place hide one another.
        members = [entry.verdict for entry in chosen if method_of(entry.row) == method]
        for rank, verdict in enumerate(sorted(members, key=lambda v: v.value)):
            places[verdict.candidate] = index + METHOD_WIDTH * ((rank + 0.5) / len(members) - 0.5)
    series = []
    for group in _groups(chosen):
        members = [entry for entry in chosen if entry.group == group]
        verdicts = [entry.verdict for entry in members]
        series.append(
            Series(
                name=group,
                x=tuple(places[v.candidate] for v in verdicts),
                y=tuple(v.value for v in verdicts),
                labels=tuple(v.candidate for v in verdicts),
                low=tuple(v.low for v in verdicts),
                high=tuple(v.high for v in verdicts),
            )
        )
    values = [entry.verdict.value for entry in chosen]
    return Figure(
        "divergence-method", "JS divergence by method", POINTS, "", "JS divergence (nats)",
        tuple(series), "Each point is a candidate, with its interval, beside others of its method.",
        tuple(enumerate(map(str, methods))), _limit_marks(chosen, "y", 1.0), _needs_log(values),
    )  # fmt: skip


def perplexity_against_task(entries: Sequence[Entry]) -> Figure | None:
    """Return the scatter plot of the rise of perplexity and the drop of the task's score.

    Candidates in which perplexity keeps its limit and the task does not are those that a gate on
    perplexity alone would let through.
    """
    drifts = {entry.verdict.candidate: entry for entry in _of_metric(entries, _PERPLEXITY)}
    pairs = []
    used: dict[str, str] = {}
    for name, metric in METRICS.items():
        for entry in _of_metric(entries, name) if metric.is_task else ():
            if entry.verdict.candidate in drifts and used.setdefault(entry.group, name) == name:
                pairs.append((drifts[entry.verdict.candidate], entry))
    if not pairs:
        return None
    kinds = {
        (True, True): "both keep their limits",
        (True, False): "only the task breaks its limit: perplexity misses it",
        (False, True): "only perplexity breaks its limit",
        (False, False): "both break their limits",
    }
    bound = MOST_LIMITS * max(drift.verdict.limit for drift, _ in pairs)
    series = []
    for kind, name in kinds.items():
        # Also without members, so that each kind has the same colour in every report.
        members = [(d, t) for d, t in pairs if (d.verdict.met, t.verdict.met) == kind]
        series.append(
            Series(
                name=name,
                x=_scaled([min(d.verdict.value, bound) for d, _ in members], 100),
                y=_scaled([t.verdict.value for _, t in members], 100),
                labels=tuple(d.verdict.candidate for d, _ in members),
                low=_scaled([t.verdict.low for _, t in members], 100),
                high=_scaled([t.verdict.high for _, t in members], 100),
            )
        )
    tasks = [task for _, task in pairs]
    titles = ", ".join(METRICS[name].title for name in dict.fromkeys(used.values()))
    beyond = sum(drift.verdict.value > bound for drift, _ in pairs)
    edge = counted(beyond, "candidate")
    note = f" At the right edge, {edge} with a rise of more than {bound:.0%}." if beyond else ""
    return Figure(
        "perplexity-task", "Perplexity against the task", POINTS, "rise of perplexity (%)",
        f"drop of {titles} (points)", tuple(series),
        "Each point is a candidate, with the interval of its drop. Point estimates decide on which "
        f"side of a limit it is.{note}",
        marks=(*_limit_marks([d for d, _ in pairs], "x", 100), *_limit_marks(tasks, "y", 100)),
    )  # fmt: skip


def divergence_quantiles(items: Mapping[Key, ItemValues]) -> Figure | None:
    """Return the quantiles of the per-item Jensen-Shannon divergences of each candidate."""
    values = {
        candidate: np.quantile(stored.values.astype(np.float64), QUANTILES)
        for (candidate, metric), stored in items.items()
        if metric == _DIVERGENCE and np.isfinite(stored.values).all()
    }
    if not values:
        return None
    median = QUANTILES.index(0.5)
    kept = sorted(values, key=lambda name: -values[name][median])[:MOST_LINES]
    smallest = min(values[name][0] for name in kept)
    series = tuple(
        Series(
            name=name,
            x=tuple(float(i) for i in range(len(QUANTILES))),
            y=tuple(np.maximum(values[name], SMALLEST_DIVERGENCE).tolist()),
            labels=(name,) * len(QUANTILES),
        )
        for name in kept
    )
    note = "Quantiles over documents, or over texts for a classifier."
    if len(kept) < len(values):
        note += f" The {len(kept)} of {len(values)} candidates with the largest medians are shown."
    if smallest < SMALLEST_DIVERGENCE:
        note += f" Values below {SMALLEST_DIVERGENCE:g} nats are rounding, and drawn there."
    shown = [value for line in series for value in line.y]
    ticks = tuple((float(i), f"{level:.0%}") for i, level in enumerate(QUANTILES))
    return Figure(
        "divergence-quantiles", "Distribution of the JS divergence", LINES, "quantile",
        "JS divergence (nats)", series, note, ticks, is_log=_needs_log(shown),
    )  # fmt: skip


def trend_figure(trend: GateSeries) -> Figure:
    """Return the values of a metric over the runs of a history, with their intervals as a band."""
    metric = METRICS[trend.metric]
    scale = metric.unit.scale * (-1 if metric.drop else 1)
    points = trend.points
    ends = [sorted((p.low * scale, p.high * scale)) for p in points]
    count = len(points)
    shown = sorted({round(i) for i in np.linspace(0, count - 1, min(count, MOST_TICKS))})
    days = [p.time[:10] for p in points]
    times = days if len(set(days)) == count else [p.time[:16].replace("T", " ") for p in points]
    texts = [f"{time} {p.commit[:8]}".rstrip() for time, p in zip(times, points, strict=True)]
    return Figure(
        name=f"trend-{_file_name(trend.candidate)}-{_file_name(trend.metric)}",
        title=f"{trend.candidate}: {metric.title}",
        kind=LINES,
        x_title="run",
        y_title=_axis(metric),
        series=(
            Series(
                name=metric.title,
                x=tuple(map(float, range(count))),
                y=tuple(p.value * scale for p in points),
                labels=tuple(texts),
                low=tuple(low for low, _ in ends),
                high=tuple(high for _, high in ends),
                marked=tuple(p.accepted for p in points),
            ),
        ),
        note="Band: the interval of each run. A star marks an accepted run; a vertical line marks "
        "a step, or a run that cannot be compared with the one before it.",
        x_ticks=tuple((float(i), times[i]) for i in shown),
        marks=(
            *(Mark("x", float(s.point), f"step {texts[s.point]}") for s in trend.steps),
            *(Mark("x", float(point), reason) for point, reason in trend.breaks.items()),
        ),
    )


def method_of(row: str) -> str:
    """Return the methods in the name of a candidate, without their settings.

    >>> method_of("awq-int4,group=32+rtn-int4,group=32"), method_of("wanda-2:4-questions")
    ('awq+rtn', 'wanda')
    """
    parts = (re.match(r"[A-Za-z_0-9]*[A-Za-z_]", part) for part in row.split("+"))
    return "+".join(dict.fromkeys(m[0] for m in parts if m)) or row


def _of_metric(entries: Iterable[Entry], metric: str) -> list[Entry]:
    return [entry for entry in entries if entry.verdict.metric == metric]


def _groups(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.group for entry in entries))


def _is_number(verdict: Verdict) -> bool:
    return math.isfinite(verdict.value)


def _limit_marks(entries: Sequence[Entry], axis: str, scale: float) -> tuple[Mark, ...]:
    """Return the limit, if all gates have the same one."""
    limits = {entry.verdict.limit for entry in entries}
    return tuple(Mark(axis, limit * scale, "limit") for limit in limits if len(limits) == 1)


def _needs_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > LOG_RANGE * min(values)


def _scaled(values: Iterable[float], scale: float) -> tuple[float, ...]:
    return tuple(value * scale for value in values)


def _position(value: float, among: Sequence[float]) -> float:
    low, high = min(among), max(among)
    return (value - low) / (high - low) if high > low else 1.0


def _end(axis: str, value: float) -> str:
    return f"{value * 100:.1f}%" if axis == "task" else f"{value:.2f}x"


def _quality_text(ranked: Iterable[Ranking]) -> str:
    return ", ".join(dict.fromkeys(r.sources["task"] for r in ranked if "task" in r.sources))


def _axes_text(ranking: Ranking) -> str:
    names = ["quality" if axis == "task" else axis for axis in ranking.axes]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _axis(metric: Metric) -> str:
    suffix = metric.unit.suffix.strip()
    return f"{metric.label} ({suffix})" if suffix else metric.label


def _level_axis(metric: Metric) -> str:
    return f"{metric.title} ({metric.level_unit.suffix.strip()})"


def _file_name(name: str) -> str:
    """Return a name with all characters that are unsafe in the name of a file replaced."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.") or "unnamed"
