"""Gates: what is promised of a metric, and the verdict on a reading. Pure.

A metric is a *cost* (a drift, held below a limit) or a *gain* (held above one). Better than the
baseline never fails a cost.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.reading import NO_DATA, Reading
from compression_gates.evals.metrics.registry import METRICS

PASSED, FAILED, INCONCLUSIVE, NOT_JUDGED = "passed", "failed", "inconclusive", "not judged"
"""Outcomes. The whole interval keeps the limit, or breaks it, or neither can be proven; or there is
nothing that could be judged."""
DEFAULT, STRICT, SMOKE = "default", "strict", "smoke"
"""Policies: the point estimate decides; only a proof passes; only a proven regression fails."""
FAR = 1e-3
"""An interval that may cover less than it says still disproves what lies beyond it at this p."""


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
        return metric.promise.format(limit=metric.unit.exactly(self.limit, signed=False))


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

    @property
    def has_no_data(self) -> bool:
        """Whether it was not judged for want of data."""
        return self.outcome == NOT_JUDGED and self.reason.startswith(NO_DATA)

    def holds(self, policy: str) -> bool:
        """Whether the case passes under a policy. NaN passes under none, and neither does under
        :data:`STRICT` what was not judged."""
        if policy == STRICT:
            return self.outcome == PASSED
        if self.outcome in (FAILED, NOT_JUDGED):
            return self.outcome == NOT_JUDGED
        bounded = math.isfinite(self.low) and math.isfinite(self.high)
        # Where there is no interval at all, the point estimate is all that is known.
        lenient = bounded and (policy == SMOKE or METRICS[self.metric].sequential)
        return self.met or lenient


def unmeasured(candidate: str, gate: Gate) -> Verdict:
    """The verdict on a candidate that could not be measured: failed, with no number."""
    nan = math.nan
    return Verdict(
        candidate, gate.metric, gate.limit, nan, nan, nan, nan, 0, 0, nan, nan, nan, "", "", False,
        FAILED,
    )  # fmt: skip


def nothing_to_lose(gate: Gate, reading: Reading) -> str:
    """Why keeping a limit on a drop proves nothing: the baseline is no further above guessing than
    the limit allows it to fall. Empty where it does prove something, or where the reading is no
    number."""
    metric, guessed = METRICS[gate.metric], reading.facts.get("guessing")
    estimate = reading.estimate
    numbers = (estimate.value, estimate.low, estimate.high)
    if not metric.drop or guessed is None or any(map(math.isnan, numbers)):
        return ""
    if reading.baseline - guessed > gate.limit:
        return ""
    return (
        f"the baseline has {metric.level_unit(reading.baseline)} and guessing "
        f"{metric.level_unit(guessed)}, so that a model that guesses would keep the limit of "
        f"{metric.unit.exactly(gate.limit, signed=False)}"
    )


def verdict_of(candidate: str, gate: Gate, reading: Reading) -> Verdict:
    """Holds a reading against a gate. Nothing is rounded, and NaN fails. Where the baseline has
    nothing to lose, a candidate cannot pass: it is not judged, unless it is proven to be worse than
    the limit all the same, and fails.

    Raises:
        EvalError: no item was measured.
    """
    estimate, reason = reading.estimate, reading.not_judged
    if estimate.n < 1 and not reason:
        raise EvalError(f"{candidate}: {gate.metric} rests on no item")
    if METRICS[gate.metric].at_most:
        p = estimate.p_above(gate.limit)
        met, best, worst = estimate.value <= gate.limit, estimate.low, estimate.high
        proven, refuted = worst <= gate.limit, best > gate.limit
    else:
        p = (-estimate).p_above(-gate.limit)
        met, best, worst = estimate.value >= gate.limit, estimate.high, estimate.low
        proven, refuted = worst >= gate.limit, best < gate.limit
    reason = reason or nothing_to_lose(gate, reading)
    if estimate.n < 1:
        outcome = NOT_JUDGED
    elif any(math.isnan(x) for x in (estimate.value, estimate.low, estimate.high)):
        met, outcome = False, FAILED
    elif estimate.unreliable:
        outcome = FAILED if refuted and p < FAR else INCONCLUSIVE
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
        confidence=estimate.confidence,
        n=estimate.n,
        clusters=estimate.clusters,
        baseline=reading.baseline,
        measured=reading.candidate,
        p=p,
        unreliable=estimate.unreliable,
        reason=reason,
        met=met,
        outcome=outcome,
    )
