"""Gates: the limit of a metric, and the verdict on a result.

A metric is a *cost*, such as a drift, with an upper limit, or a *gain* with a lower limit. A
candidate that is better than the baseline never fails a cost.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.sample_size import needed_to_settle
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.result import NO_DATA, MetricResult
from compression_gates.evals.statistics.estimate import DOCUMENTS, Estimate

PASSED, FAILED, INCONCLUSIVE, NOT_JUDGED = "passed", "failed", "inconclusive", "not judged"
"""Outcomes: the whole interval keeps the limit; the whole interval breaks it; neither; or there is
nothing to judge."""
DEFAULT, STRICT, SMOKE = "default", "strict", "smoke"
"""Policies: the point estimate decides; only proven non-inferiority passes; only a proven
regression fails."""
CRITICAL, SUPPORTING, ADVISORY = "critical", "supporting", "advisory"
"""Tiers: a gate that has to be shown to hold; one that must not be refuted; one that is shown and
never fails."""
TIERS = (CRITICAL, SUPPORTING, ADVISORY)
UNRELIABLE_P = 1e-3
"""Significance level at which even an unreliable interval proves a regression."""


@dataclass(frozen=True)
class Gate:
    """A metric and its limit, fixed before the run.

    Attributes:
        weights: of the parts of a weighted score; empty for other metrics.
        tier: one of :data:`TIERS`.
    """

    metric: str
    limit: float
    weights: Mapping[str, float] = field(default_factory=dict)
    tier: str = CRITICAL

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
        tier: of the gate.
        unit: what ``clusters`` counts, ``documents`` or ``windows``.
        needed: about how large the sample has to be to settle an inconclusive verdict
            (:func:`evals.gates.sample_size.needed_to_settle`); 0 if it is not known.
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
    tier: str = CRITICAL
    unit: str = DOCUMENTS
    needed: int = 0

    @property
    def has_no_data(self) -> bool:
        """Whether it was not judged because there were no data."""
        return self.outcome == NOT_JUDGED and self.reason.startswith(NO_DATA)

    @property
    def evidence_key(self) -> tuple[int, float, float]:
        """Sort key by the evidence that the limit is broken, the strongest first.

        A failed gate is before an inconclusive one, and what has no value before the others. Then
        the p-value decides, and among equal ones, such as those that are rounded to 0, the distance
        from the limit in half widths of the interval.
        """
        kinds = (FAILED, INCONCLUSIVE, NOT_JUDGED, PASSED)
        kind = 2 * kinds.index(self.outcome) + self.met
        if not math.isfinite(self.value) or any(map(math.isnan, (self.p, self.low, self.high))):
            return kind, -1.0, 0.0
        beyond, half_width = self.value - self.limit, self.value - self.low
        if not METRICS[self.metric].at_most:
            beyond, half_width = self.limit - self.value, self.high - self.value
        distance = beyond / half_width if half_width else math.copysign(math.inf, beyond)
        return kind, self.p, -distance

    def holds(self, policy: str) -> bool:
        """Return whether the case passes under a policy.

        The policy decides about critical gates. A supporting gate fails under every policy only if
        the whole interval breaks the limit, or, without an interval that could, if the point
        estimate does. An advisory gate never fails. NaN fails under every policy, except for an
        advisory gate. A gate that was not judged fails only under :data:`STRICT`.
        """
        if self.tier == ADVISORY:
            return True
        if self.outcome == NOT_JUDGED:
            return policy != STRICT
        if self.outcome in (PASSED, FAILED):
            return self.outcome == PASSED
        if policy == STRICT and self.tier == CRITICAL:
            return False
        only_proven = fails_only_if_proven(self.metric, self.tier, policy)
        return self.met or (only_proven and self.is_refutable)

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval, one end of which may be infinite.

        A single document has none.
        """
        is_half_bounded = math.isfinite(self.low) or math.isfinite(self.high)
        return self.is_bounded or (is_half_bounded and self.clusters > 1)

    @property
    def is_refutable(self) -> bool:
        """Whether the end of the interval that would be beyond a broken limit is finite, so that
        the interval, and not only the point estimate, could refute that the limit is kept."""
        best = self.low if METRICS[self.metric].at_most else self.high
        return self.has_interval and math.isfinite(best)

    @property
    def is_bounded(self) -> bool:
        """Whether both ends of the interval are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def breaks_advice(self) -> bool:
        """Whether the gate is advisory, and would fail under the default policy if it were
        critical."""
        return self.tier == ADVISORY and not replace(self, tier=CRITICAL).holds(DEFAULT)

    @property
    def is_implausible_gain(self) -> bool:
        """Whether a quality metric improves on the baseline by a proven amount that is larger than
        the loss that the limit allows.

        A compressed model seldom gains that much. Sizes and speeds are meant to improve, a distance
        from the baseline cannot, and a limit of 0 gives no scale. Other exceptions are the metrics
        with ``gain_is_plausible``.
        """
        metric = METRICS[self.metric]
        is_loss = metric.quality and metric.at_most and metric.always_limit is None
        is_loss &= not metric.gain_is_plausible
        is_proven = self.outcome == PASSED and not self.unreliable and self.is_bounded
        return is_loss and is_proven and self.limit > 0 and self.high < -self.limit


def fails_only_if_proven(metric: str, tier: str, policy: str) -> bool:
    """Return whether a gate that is not advisory fails only if its limit is proven to be broken."""
    if tier == SUPPORTING or policy == SMOKE:
        return True
    return policy != STRICT and (METRICS[metric].sequential or METRICS[metric].needs_naive)


def unmeasured(candidate: str, gate: Gate) -> Verdict:
    """Return the verdict on a candidate that could not be measured: failed, without a value."""
    nan = math.nan
    return Verdict(
        candidate, gate.metric, gate.limit, nan, nan, nan, nan, 0, 0, nan, nan, nan, "", "", False,
        FAILED, gate.tier,
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


def _is_infinitely_good(estimate: Estimate, metric: Metric) -> bool:
    """Return whether the estimate is infinite in the direction of a better candidate, which only a
    mistake in a metric can give."""
    return estimate.value == (-math.inf if metric.at_most else math.inf)


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
    elif _is_nan(estimate) or _is_infinitely_good(estimate, METRICS[gate.metric]):
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
    is_open = outcome == INCONCLUSIVE
    needed = needed_to_settle(METRICS[gate.metric], result, gate.limit) if is_open else 0
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
        tier=gate.tier,
        unit=estimate.unit,
        needed=needed,
    )
