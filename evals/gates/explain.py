"""The message of a case that does not pass: requirement, measurement and worst items."""

import math

from compression_gates.evals.attribution.attribution import Attribution
from compression_gates.evals.gates.gate import (
    ADVISORY,
    DEFAULT,
    INCONCLUSIVE,
    NOT_JUDGED,
    SMOKE,
    STRICT,
    SUPPORTING,
    Gate,
    Verdict,
)
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.regressions import ON_SCREEN
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.metrics.units import COUNT, counted
from compression_gates.evals.statistics.item_values import SERIES

_PROOF = "fails only if the whole interval is beyond, or the estimate if there is no interval"
_POLICIES = {
    DEFAULT: "",
    STRICT: "; the strict policy requires it of the whole interval",
    SMOKE: f"; the smoke policy {_PROOF}",
}
_TIERS = {
    SUPPORTING: f"; a supporting gate {_PROOF}",
    ADVISORY: "; an advisory gate never fails",
}
MAX_SUGGESTED = 10_000_000
"""Largest number of items that is suggested."""


def explain(
    verdict: Verdict,
    gate: Gate,
    result: MetricResult,
    rerun: str,
    policy: str,
    attribution: Attribution | None = None,
) -> str:
    """Return the message of a case that does not pass.

    The first line is a summary; the last one is the command ``rerun``, if it is not empty.

    Args:
        verdict, gate, result: of the case.
        rerun: the command that runs the case again.
        policy: how verdicts become pass or fail.
        attribution: the modules that the difference comes from, if they were looked for.
    """
    metric = METRICS[verdict.metric]
    summary = headline(verdict, policy)
    if result.reasons:
        rest = len(result.reasons) - 1
        summary += f": {result.reasons[0]}" + (f", and {rest} more" if rest else "")
    lines = [summary, f"  promised   {gate.promise}{_TIERS.get(gate.tier, _POLICIES[policy])}"]
    if verdict.outcome != NOT_JUDGED:
        lines += _measured(verdict, metric, result)
        lines += [f"  run on     {result.kernel}"] if result.kernel else []
        label = "times" if metric.timed else "also"
        lines += [f"  {label:<10} {line}" for line in result.evidence]
    lines += [f"  because    {reason}" for reason in result.reasons]
    if verdict.outcome == INCONCLUSIVE and policy != STRICT:
        where = "the limit is inside the interval" if verdict.has_interval else "no interval"
        reason = verdict.unreliable or f"{where}; {_advice(verdict)}"
        lines.append(f"  note       inconclusive: {reason}")
    shown = result.worst.items[:ON_SCREEN]
    lines += [f"  worst {i}    {item.line()}" for i, item in enumerate(shown, 1)]
    if len(result.worst) > len(shown):
        more = counted(len(result.worst) - len(shown), "more item")
        lines.append(f"             {more} got worse")
    if attribution is not None:
        lines += [f"  where      {line}" for line in attribution.where()]
        lines += [f"  weights    {line}" for line in attribution.weights()]
    return "\n".join([*lines, *([f"  rerun      {rerun}"] if rerun else [])])


def headline(verdict: Verdict, policy: str) -> str:
    """Return why a case does not pass, in one line."""
    metric = METRICS[verdict.metric]
    name = metric.label
    if verdict.outcome == NOT_JUDGED:
        return f"{name} not judged: {verdict.reason}"
    if math.isnan(verdict.value):
        return f"{name} is not a number"
    value = metric.show(verdict.value, verdict.limit)
    limit = metric.unit.exactly(metric.change(verdict.limit))
    amount = f"{name} {value}"
    if metric.unit is COUNT:
        amount = f"{value} {name}" if value == "1" else f"{value} {name}s"
    if verdict.outcome != INCONCLUSIVE:
        return f"{amount} (limit {limit})"
    if policy != STRICT:
        return f"{amount} (limit {limit}), inconclusive"
    interval = f", {_interval(verdict, metric)}" if verdict.has_interval else ""
    reason = verdict.unreliable or _advice(verdict)
    return f"{name} not proven: {value}{interval} against {limit}; {reason}"


def needed_count(verdict: Verdict) -> int | None:
    """Return about how many items, documents or timed pairs would settle an inconclusive verdict.

    Half widths scale with the inverse square root of the number, and the estimate is assumed to
    stay the same: ``n (half width / distance to the limit)^2``.

    Returns:
        None if the number is not finite or too large, or if the interval depends on more than one
        count.
    """
    metric = METRICS[verdict.metric]
    distance = abs(verdict.limit - verdict.value)
    beyond = verdict.limit > verdict.value
    half_width = verdict.high - verdict.value if beyond else verdict.value - verdict.low
    if not metric.counted or not distance > 0 or not math.isfinite(half_width):
        return None
    count = math.ceil(_count(verdict) * (half_width / distance) ** 2)
    return count if count < MAX_SUGGESTED else None


def _advice(verdict: Verdict) -> str:
    """Return how an inconclusive verdict could be settled."""
    metric, count = METRICS[verdict.metric], needed_count(verdict)
    if not verdict.met:
        return "the point estimate breaks the limit, so more data would not prove that it is kept"
    if verdict.value == verdict.limit:
        return "the point estimate equals the limit, so more data would not prove that it is kept"
    if count is None:
        return "more data are needed"
    return f"about {count:,} {metric.counted} would settle it ({_count(verdict):,} were judged)"


def _count(verdict: Verdict) -> int:
    return verdict.clusters if METRICS[verdict.metric].counted == "documents" else verdict.n


def _interval(verdict: Verdict, metric: Metric) -> str:
    ends = metric.show_interval(verdict.low, verdict.high, verdict.limit)
    return f"{verdict.confidence:.0%} interval {ends}"


def _measured(verdict: Verdict, metric: Metric, result: MetricResult) -> list[str]:
    nan = math.isnan(verdict.value)
    parts = ["not a number" if nan else metric.show(verdict.value, verdict.limit)]
    if not verdict.has_interval:
        parts += [] if nan else ["no interval"]
    elif verdict.low < verdict.high:
        parts.append(_interval(verdict, metric))
    sample = f" ({_sample(verdict, result)})" if verdict.n > 1 else ""
    lines = [f"  measured   {', '.join(parts)}{sample}"]
    if metric.level_unit is not None:
        levels = [metric.level_unit(level) for level in (verdict.baseline, verdict.measured)]
        lines.append("  baseline   {}, candidate {}".format(*levels))
    if "worse" in result.facts:
        # McNemar's test is the sign test of right and wrong answers.
        test = "McNemar's" if metric.shows_changes else "sign"
        changed = "{worse:.0f} worse, {better:.0f} better".format_map(result.facts)
        p_value = f"{test} mid-p test over documents: p = {result.facts['mcnemar_p']:.2g}"
        lines.append(f"  changed    {changed} ({p_value})")
    return lines


def _sample(verdict: Verdict, result: MetricResult) -> str:
    if verdict.clusters in (1, verdict.n):
        return f"n = {verdict.n:,}"
    series = result.items is not None and result.items.kind == SERIES
    return f"n = {verdict.n:,} in {counted(verdict.clusters, 'window' if series else 'document')}"
