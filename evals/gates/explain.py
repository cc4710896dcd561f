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
from compression_gates.evals.gates.sample_size import sample_size
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.regressions import ON_SCREEN
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.metrics.units import COUNT, counted

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
        reason = verdict.unreliable or f"{where}; {settled_by(verdict)}"
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
    return f"{name} not proven: {value}{interval} against {limit}; {settled_by(verdict)}"


def settled_by(verdict: Verdict) -> str:
    """Return how an inconclusive verdict could be settled."""
    if verdict.unreliable:
        return verdict.unreliable
    if not verdict.met:
        return "the point estimate breaks the limit, so more data would not prove that it is kept"
    if verdict.value == verdict.limit:
        return "the point estimate equals the limit, so more data would not prove that it is kept"
    if not verdict.needed:
        return "more data are needed"
    metric = METRICS[verdict.metric]
    size, unit = sample_size(metric, verdict)
    value = metric.show(verdict.value, verdict.limit)
    return (
        f"about {verdict.needed:,} {unit} (now {size:,}) would settle it, assuming a true value of "
        f"{value}"
    )


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
    sample = f" ({_sample(verdict)})" if verdict.n > 1 else ""
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


def _sample(verdict: Verdict) -> str:
    if verdict.clusters in (1, verdict.n):
        return f"n = {verdict.n:,}"
    return f"n = {verdict.n:,} in {verdict.clusters:,} {verdict.unit}"
