"""Gates: what is promised of a metric, and the verdict on a reading. Pure.

A metric is a *cost* (a drift, held below a limit) or a *gain* (held above one). Better than the
baseline never fails a cost.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from evals.errors import EvalError
from evals.reading import Reading

PASSED, FAILED, INCONCLUSIVE, NOT_JUDGED = "passed", "failed", "inconclusive", "not judged"
"""Outcomes. The whole interval keeps the limit, or breaks it, or neither can be proven; or there is
nothing that could be judged."""
DEFAULT, STRICT, SMOKE = "default", "strict", "smoke"
"""Policies: the point estimate decides; only a proof passes; only a proven regression fails."""
_PROMISED = {DEFAULT: "", STRICT: ", proven (--strict)", SMOKE: ", unless disproven (--smoke)"}
FAR = 1e-3
"""An interval that may cover less than it says still disproves what lies beyond it at this p."""


def _percent(value: float) -> str:
    return f"{value:+.2%}"


def _points(value: float) -> str:
    return f"{value * 100:+.2f} pt"


def _share(value: float) -> str:
    return f"{value:.2%}"


def _nats(value: float) -> str:
    return f"{value:.4f} nats"


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _bytes(value: float) -> str:
    return f"{value:,.0f} bytes"


def _milliseconds(value: float) -> str:
    return f"{value * 1e3:.2f} ms"


@dataclass(frozen=True)
class Metric:
    """How a metric is called, told and held.

    Attributes:
        title: column of the table.
        promise: what a passing case says, with the limit in braces.
        at_most: a cost; otherwise a gain.
        show: formats the judged number, and
        show_side: the baseline's and the candidate's own.
        noisy: depends on the machine, so that only a proven regression fails.
    """

    title: str
    promise: str
    at_most: bool
    show: Callable[[float], str]
    show_side: Callable[[float], str]
    noisy: bool = False


METRICS: Mapping[str, Metric] = {
    "perplexity_drift": Metric(
        "perplexity", "perplexity rises by at most {limit}", True, _percent, _plain
    ),
    "js_divergence": Metric(
        "JS", "predictions diverge by at most {limit} (Jensen-Shannon)", True, _nats, _nats
    ),
    "exact_match_drop": Metric("EM", "exact match falls by at most {limit}", True, _points, _share),
    "f1_drop": Metric("F1", "F1 falls by at most {limit}", True, _points, _share),
    "rouge1_drop": Metric("ROUGE-1", "ROUGE-1 falls by at most {limit}", True, _points, _share),
    "accuracy_drop": Metric("accuracy", "accuracy falls by at most {limit}", True, _points, _share),
    "flips": Metric("flips", "at most {limit} of the predictions flip", True, _share, _share),
    "confident_flips": Metric(
        "sure flips",
        "at most {limit} of the continuations turn where the baseline is sure",
        True,
        _share,
        _share,
    ),
    "continuation_changes": Metric(
        "continued", "at most {limit} of the continuations change", True, _share, _share
    ),
    "continuation_parting": Metric(
        "parting",
        "at most {limit} of a continuation lies behind the first difference",
        True,
        _share,
        _share,
    ),
    "continuation_rouge1": Metric(
        "said ROUGE-1",
        "ROUGE-1 of continuations falls short of the baseline's by at most {limit}",
        True,
        _points,
        _share,
    ),
    "compression_ratio": Metric(
        "size", "weights on disk shrink at least {limit}", False, _times, _bytes
    ),
    "speedup": Metric(
        "speed",
        "a forward pass is at least {limit} as fast",
        False,
        _times,
        _milliseconds,
        noisy=True,
    ),
    "weighted_score": Metric(
        "score",
        "the weighted score is at least {limit}",
        False,
        _plain,
        _plain,
        noisy=True,
    ),
}


@dataclass(frozen=True)
class Gate:
    """A metric and its limit, fixed before the run.

    Attributes:
        weights: of the weighted score's parts; empty elsewhere.
    """

    metric: str
    limit: float
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def promise(self) -> str:
        metric = METRICS[self.metric]
        return metric.promise.format(limit=metric.show(self.limit).lstrip("+"))


@dataclass(frozen=True)
class Verdict:
    """A gate, what was read, and what follows.

    Attributes:
        outcome: ``passed`` or ``failed`` where the whole interval lies on one side of the limit;
            ``inconclusive`` where it does not, or where it cannot be relied on; ``not judged``
            where there was nothing to judge.
        met: whether the point estimate keeps the promise.
        p: one-sided p-value of the promise being kept.
        unreliable: why the interval proves nothing; empty where it can be relied on.
        reason: why nothing was judged; empty where something was.
    """

    candidate: str
    metric: str
    limit: float
    value: float
    low: float
    high: float
    confidence: float
    n: int
    clusters: int
    baseline: float
    measured: float
    p: float
    unreliable: str
    reason: str
    met: bool
    outcome: str

    def holds(self, policy: str) -> bool:
        """Whether the case passes under a policy. NaN passes under none, and neither does under
        :data:`STRICT` what was not judged."""
        if policy == STRICT:
            return self.outcome == PASSED
        if self.outcome in (FAILED, NOT_JUDGED):
            return self.outcome == NOT_JUDGED
        bounded = math.isfinite(self.low) and math.isfinite(self.high)
        # Where there is no interval at all, the point estimate is all that is known.
        lenient = bounded and (policy == SMOKE or METRICS[self.metric].noisy)
        return self.met or lenient


def judge(candidate: str, gate: Gate, reading: Reading) -> Verdict:
    """Holds a reading against a gate. Nothing is rounded; NaN fails.

    Raises:
        EvalError: no item was measured.
    """
    estimate = reading.estimate
    if estimate.n < 1 and not reading.not_judged:
        raise EvalError(f"{candidate}: {gate.metric} rests on no item")
    if METRICS[gate.metric].at_most:
        p = estimate.p_above(gate.limit)
        met, best, worst = estimate.value <= gate.limit, estimate.low, estimate.high
        proven, refuted = worst <= gate.limit, best > gate.limit
    else:
        p = (-estimate).p_above(-gate.limit)
        met, best, worst = estimate.value >= gate.limit, estimate.high, estimate.low
        proven, refuted = worst >= gate.limit, best < gate.limit
    if reading.not_judged:
        met, p, outcome = False, 1.0, NOT_JUDGED
    elif any(math.isnan(x) for x in (estimate.value, estimate.low, estimate.high)):
        met, outcome = False, FAILED
    elif estimate.unreliable:
        outcome = FAILED if refuted and p < FAR else INCONCLUSIVE
        p = p if outcome == FAILED else 1.0
    else:
        outcome = PASSED if proven else FAILED if refuted else INCONCLUSIVE
    return Verdict(
        candidate=candidate,
        metric=gate.metric,
        limit=gate.limit,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        confidence=estimate.confidence,
        n=estimate.n,
        clusters=estimate.clusters,
        baseline=reading.baseline,
        measured=reading.candidate,
        p=p,
        unreliable=estimate.unreliable,
        reason=reading.not_judged,
        met=met,
        outcome=outcome,
    )


def explain(verdict: Verdict, gate: Gate, reading: Reading, rerun: str, policy: str) -> str:
    """What a case prints that does not pass."""
    metric = METRICS[verdict.metric]
    show, side = metric.show, metric.show_side
    if verdict.outcome == NOT_JUDGED:
        return (
            f"{verdict.candidate}: {metric.title} not judged: {verdict.reason}\n"
            f"  promised   {gate.promise}\n"
            f"  rerun      {rerun}"
        )
    how = "not proven" if verdict.outcome == INCONCLUSIVE and policy == STRICT else "failed"
    lines = [
        f"{verdict.candidate}: {metric.title} gate {how}",
        f"  promised   {gate.promise}{_PROMISED[policy]}",
        f"  measured   {show(verdict.value)}, {verdict.confidence:.0%} interval "
        f"{show(verdict.low)} to {show(verdict.high)} ({_sample(verdict)})",
        f"  baseline   {side(verdict.baseline)}, candidate {side(verdict.measured)}",
    ]
    if "worse" in reading.facts:
        lines.append("  changed    {worse:.0f} worse, {better:.0f} better "
                     "(McNemar's mid-p {mcnemar_p:.2g})".format_map(reading.facts))  # fmt: skip
    if verdict.outcome == INCONCLUSIVE:
        why = verdict.unreliable or "the interval contains the limit"
        lines.append(f"  note       inconclusive: {why}")
    lines += [f"  worst {i}    {item}" for i, item in enumerate(reading.worst, 1)]
    lines.append(f"  rerun      {rerun}")
    return "\n".join(lines)


def _sample(verdict: Verdict) -> str:
    if verdict.clusters in (1, verdict.n):
        return f"n = {verdict.n}"
    return f"n = {verdict.n} in {verdict.clusters} documents"
