"""What a case prints that does not pass: what was promised, what was measured, and on which items
it went wrong. Pure."""

import math

from compression_gates.evals.gates.gate import (
    DEFAULT,
    INCONCLUSIVE,
    NOT_JUDGED,
    SMOKE,
    STRICT,
    Gate,
    Verdict,
)
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.reading import Reading
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.regressions import ON_SCREEN
from compression_gates.evals.metrics.units import counted
from compression_gates.evals.statistics.item_values import SERIES

_POLICIES = {
    DEFAULT: "",
    STRICT: "; the strict policy requires it of the whole interval",
    SMOKE: "; the smoke policy fails only if the whole interval is beyond",
}
TOO_MANY = 10_000_000
"""Numbers of items from here on are not suggested."""


def explain(verdict: Verdict, gate: Gate, reading: Reading, rerun: str, policy: str) -> str:
    """What a case prints that does not pass. The first line says it in a few words, and the last
    one how to run it again, where ``rerun`` says it."""
    metric = METRICS[verdict.metric]
    first = headline(verdict, policy)
    if reading.reasons:
        rest = len(reading.reasons) - 1
        first += f": {reading.reasons[0]}" + (f", and {rest} more" if rest else "")
    lines = [first, f"  promised   {gate.promise}{_POLICIES[policy]}"]
    if verdict.outcome != NOT_JUDGED:
        lines += _measured(verdict, metric, reading)
    lines += [f"  because    {reason}" for reason in reading.reasons]
    if verdict.outcome == INCONCLUSIVE and policy != STRICT:
        reason = verdict.unreliable or f"the limit is inside the interval; {_remedy(verdict)}"
        lines.append(f"  note       inconclusive: {reason}")
    shown = reading.worst.items[:ON_SCREEN]
    lines += [f"  worst {i}    {item.line()}" for i, item in enumerate(shown, 1)]
    if len(reading.worst) > len(shown):
        more = counted(len(reading.worst) - len(shown), "more item")
        lines.append(f"             {more} got worse")
    return "\n".join([*lines, *([f"  rerun      {rerun}"] if rerun else [])])


def headline(verdict: Verdict, policy: str) -> str:
    """Why a case does not pass, in a line."""
    metric = METRICS[verdict.metric]
    name = metric.label
    if verdict.outcome == NOT_JUDGED:
        return f"{name} not judged: {verdict.reason}"
    if math.isnan(verdict.value):
        return f"{name} is not a number"
    value = metric.show(verdict.value, verdict.limit)
    limit = metric.unit.exactly(metric.change(verdict.limit))
    if verdict.outcome != INCONCLUSIVE:
        return f"{name} {value} (limit {limit})"
    if policy != STRICT:
        return f"{name} {value} (limit {limit}), inconclusive"
    interval = f", {_interval(verdict, metric)}" if _bounded(verdict) else ""
    reason = verdict.unreliable or _remedy(verdict)
    return f"{name} not proven: {value}{interval} against {limit}; {reason}"


def needed(verdict: Verdict) -> int | None:
    """About how many items, documents or timed pairs would take the limit out of the interval.

    Intervals shrink with the square root of the number, and the estimate is taken to stay where it
    is: ``n (half width / distance to the limit)^2``. None where that is no number, or depends on
    more than one count.
    """
    metric = METRICS[verdict.metric]
    distance = abs(verdict.limit - verdict.value)
    beyond = verdict.limit > verdict.value
    half_width = verdict.high - verdict.value if beyond else verdict.value - verdict.low
    if not metric.counted or not distance > 0 or not math.isfinite(half_width):
        return None
    count = math.ceil(_count(verdict) * (half_width / distance) ** 2)
    return count if count < TOO_MANY else None


def _remedy(verdict: Verdict) -> str:
    """What would turn an inconclusive verdict into a conclusive one."""
    metric, count = METRICS[verdict.metric], needed(verdict)
    if not verdict.met:
        return "the estimate itself is beyond the limit, so more data would not prove it"
    if verdict.value == verdict.limit:
        return "the estimate is the limit itself, so more data would not prove it"
    if count is None:
        return "more data are needed to tell"
    return f"about {count:,} {metric.counted} would settle it ({_count(verdict):,} were judged)"


def _count(verdict: Verdict) -> int:
    return verdict.clusters if METRICS[verdict.metric].counted == "documents" else verdict.n


def _bounded(verdict: Verdict) -> bool:
    return math.isfinite(verdict.low) and math.isfinite(verdict.high)


def _interval(verdict: Verdict, metric: Metric) -> str:
    ends = metric.show_interval(verdict.low, verdict.high, verdict.limit)
    return f"{verdict.confidence:.0%} interval {ends}"


def _measured(verdict: Verdict, metric: Metric, reading: Reading) -> list[str]:
    nan = math.isnan(verdict.value)
    parts = ["not a number" if nan else metric.show(verdict.value, verdict.limit)]
    if not _bounded(verdict):
        parts += [] if nan else ["no interval"]
    elif verdict.low < verdict.high:
        parts.append(_interval(verdict, metric))
    sample = f" ({_sample(verdict, reading)})" if verdict.n > 1 else ""
    lines = [f"  measured   {', '.join(parts)}{sample}"]
    if metric.level_unit is not None:
        levels = [metric.level_unit(level) for level in (verdict.baseline, verdict.measured)]
        lines.append("  baseline   {}, candidate {}".format(*levels))
    if "worse" in reading.facts:
        changed = (
            "{worse:.0f} worse, {better:.0f} better (McNemar's mid-p by document {mcnemar_p:.2g})"
        )
        lines.append(f"  changed    {changed.format_map(reading.facts)}")
    return lines


def _sample(verdict: Verdict, reading: Reading) -> str:
    if verdict.clusters in (1, verdict.n):
        return f"n = {verdict.n:,}"
    series = reading.items is not None and reading.items.kind == SERIES
    return f"n = {verdict.n:,} in {counted(verdict.clusters, 'window' if series else 'document')}"
