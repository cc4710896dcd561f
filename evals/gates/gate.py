"""Gates: the limit of a metric, and the verdict on a result.

A metric is a *cost*, such as a drift, with an upper limit, or a *gain* with a lower limit. A
candidate that is better than the baseline never fails a cost.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.result import NO_DATA, MetricResult
from compression_gates.evals.statistics.estimate import Estimate

PASSED, FAILED, INCONCLUSIVE, NOT_JUDGED = "passed", "failed", "inconclusive", "not judged"
"""Outcomes: the whole interval keeps the limit; the whole interval breaks it; neither; or there is
nothing to judge."""
DEFAULT, STRICT, SMOKE = "default", "strict", "smoke"
"""Policies: the point estimate decides; only proven non-inferiority passes; only a proven
regression fails."""
UNRELIABLE_P = 1e-3
"""Significance level at which even an unreliable interval proves a regression."""


@dataclass(frozen=True)
class Gate:
    """A metric and its limit, fixed before the run.

    Attributes:
        weights: of the parts of a weighted score; empty for other metrics.
    """

    metric: str
    limit: float
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def promise(self) -> str:
        metric = METRICS[self.metric]
        return metric.promise.format(limit=metric.unit.exactly(self.limit, signed=False))


@dataclass(frozen=True)
class Verdict:
    """The outcome of a gate for a candidate.

    Attributes:
        candidate, metric, limit: of the gate.
        value, low, high, confidence: the estimate and its interval.
        n, clusters: numbers of items and of documents.
        baseline, measured: the metric's value for the baseline and for the candidate by itself.
        p: one-sided p-value of the null hypothesis that the limit is kept.
        unreliable: why the interval proves nothing; empty if it is reliable.
        reason: why the gate was not judged; empty if it was.
        met: whether the point estimate keeps the limit.
        outcome: ``passed`` or ``failed`` if the whole interval is on one side of the limit,
            ``inconclusive`` if it is not, or is unreliable, and ``not judged`` if there was nothing
            to judge.
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

    @property
    def has_no_data(self) -> bool:
        """Whether it was not judged because there were no data."""
        return self.outcome == NOT_JUDGED and self.reason.startswith(NO_DATA)

    def holds(self, policy: str) -> bool:
        """Return whether the case passes under a policy.

        NaN fails under every policy. A gate that was not judged fails only under :data:`STRICT`.
        """
        if policy == STRICT:
            return self.outcome == PASSED
        if self.outcome in (FAILED, NOT_JUDGED):
            return self.outcome == NOT_JUDGED
        has_interval = math.isfinite(self.low) and math.isfinite(self.high)
        # Without an interval, only the point estimate can decide.
        metric = METRICS[self.metric]
        only_proven = policy == SMOKE or metric.sequential or metric.needs_naive
        is_lenient = has_interval and only_proven
        return self.met or is_lenient


def unmeasured(candidate: str, gate: Gate) -> Verdict:
    """Return the verdict on a candidate that could not be measured: failed, without a value."""
    nan = math.nan
    return Verdict(
        candidate, gate.metric, gate.limit, nan, nan, nan, nan, 0, 0, nan, nan, nan, "", "", False,
        FAILED,
    )  # fmt: skip


def chance_level_reason(gate: Gate, result: MetricResult) -> str:
    """Return why a gate on a drop cannot be judged, or an empty string.

    If the baseline exceeds chance level by no more than the limit, a model that guesses would pass.
    """
    metric, chance = METRICS[gate.metric], result.facts.get("guessing")
    if not metric.drop or chance is None or _is_nan(result.estimate):
        return ""
    if result.baseline - chance > gate.limit:
        return ""
    return (
        f"the baseline has {metric.level_unit(result.baseline)} and guessing "
        f"{metric.level_unit(chance)}, so a model that guesses would keep the limit of "
        f"{metric.unit.exactly(gate.limit, signed=False)}"
    )


def _is_nan(estimate: Estimate) -> bool:
    return any(map(math.isnan, (estimate.value, estimate.low, estimate.high)))


def verdict_of(candidate: str, gate: Gate, result: MetricResult) -> Verdict:
    """Return the verdict on a result. Nothing is rounded, and NaN fails.

    If the baseline is close to chance level (:func:`chance_level_reason`), the gate is not judged,
    unless the limit is proven to be broken.

    Raises:
        EvalError: no item was measured.
    """
    estimate, reason = result.estimate, result.not_judged
    if estimate.n < 1 and not reason:
        raise EvalError(f"{candidate}: {gate.metric} was measured on no item")
    if METRICS[gate.metric].at_most:
        p = estimate.p_above(gate.limit)
        met, best, worst = estimate.value <= gate.limit, estimate.low, estimate.high
        proven, refuted = worst <= gate.limit, best > gate.limit
    else:
        p = (-estimate).p_above(-gate.limit)
        met, best, worst = estimate.value >= gate.limit, estimate.high, estimate.low
        proven, refuted = worst >= gate.limit, best < gate.limit
    reason = reason or chance_level_reason(gate, result)
    if estimate.n < 1:
        outcome = NOT_JUDGED
    elif _is_nan(estimate):
        met, outcome = False, FAILED
    elif estimate.unreliable:
        outcome = FAILED if refuted and p < UNRELIABLE_P else INCONCLUSIVE
        p = p if outcome == FAILED else 1.0
    else:
        outcome = PASSED if proven else FAILED if refuted else INCONCLUSIVE
    if outcome == FAILED:
        reason = ""
    elif reason:
        met, p, outcome = False, 1.0, NOT_JUDGED
    return Verdict(
        candidate=candidate,
        metric=gate.metric,
        limit=gate.limit,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        confidence=estimate.confidence_level,
        n=estimate.n,
        clusters=estimate.clusters,
        baseline=result.baseline,
        measured=result.candidate,
        p=p,
        unreliable=estimate.unreliable,
        reason=reason,
        met=met,
        outcome=outcome,
    )
