"""Gates: what is promised of a metric, and the verdict on a reading. Pure.

A metric is a *cost* (a drift, held below a limit) or a *gain* (held above one). Better than the
baseline never fails a cost.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.reading import NO_DATA, Reading
from compression_gates.evals.metrics.units import Unit

PASSED, FAILED, INCONCLUSIVE, NOT_JUDGED = "passed", "failed", "inconclusive", "not judged"
"""Outcomes. The whole interval keeps the limit, or breaks it, or neither can be proven; or there is
nothing that could be judged."""
DEFAULT, STRICT, SMOKE = "default", "strict", "smoke"
"""Policies: the point estimate decides; only a proof passes; only a proven regression fails."""
ARTIFACT = "artifact_differences"
"""The metric that every candidate with a checkpoint is held to, whatever its profile says."""
FAR = 1e-3
"""An interval that may cover less than it says still disproves what lies beyond it at this p."""


_percent = Unit("%", digits=2, scale=100, flags="+")
_points = Unit(" pt", digits=2, scale=100, flags="+", end_digits=1)
_share = Unit("%", digits=2, scale=100)
_nats = Unit(" nats", digits=4)
_times = Unit("x", digits=2)
_plain = Unit("", digits=3)
_count = Unit("", digits=0)
_bytes = Unit(" bytes", digits=0, flags=",")
_milliseconds = Unit(" ms", digits=2, scale=1e3)


@dataclass(frozen=True)
class Metric:
    """How a metric is named, written and judged.

    A change is shown as candidate minus baseline. A metric that is stored as a *drop*, baseline
    minus candidate, is therefore written with the opposite sign; the methods below take stored
    numbers and know.

    Attributes:
        title: column of the table.
        promise: what a passing case says, with the limit in braces.
        at_most: a cost; otherwise a gain.
        unit: of the judged number.
        show_side: writes the baseline's and the candidate's own number.
        noisy: depends on the machine.
        sequential: measured until it is decided, so that only a proven regression fails.
        drop: stored as baseline minus candidate.
        name: what sentences call it; the title unless given.
        counted: what more are needed of to narrow the interval: ``items``, ``documents`` (where an
            item is a token) or ``timed pairs``; empty where it depends on more than one count.
    """

    title: str
    promise: str
    at_most: bool
    unit: Unit
    show_side: Unit
    noisy: bool = False
    sequential: bool = False
    drop: bool = False
    name: str = ""
    counted: str = "items"

    @property
    def is_distance(self) -> bool:
        """Whether it is how far the candidate is from the baseline, which has none from itself."""
        return self.at_most and self.unit is self.show_side

    def show(self, value: float, beside: float = math.nan, bare: bool = False) -> str:
        """A value, with as many digits as tell it from ``beside``, such as the limit."""
        return self.unit.beside(self.change(value), self.change(beside), bare)

    def show_limit(self, limit: float) -> str:
        """A limit in the sense of the values: ``≤ +5.00%``, ``≥ -2.00 pt``."""
        sign = "≤" if self.at_most != self.drop else "≥"
        return f"{sign} {self.unit.exactly(self.change(limit))}"

    def show_interval(
        self, low: float, high: float, limit: float, bare: bool = False, to: str = " to "
    ) -> str:
        """An interval in the sense of the values, from low to high."""
        ends = sorted((self.change(low), self.change(high)))
        return self.unit.interval(*ends, self.change(limit), bare, to)

    def change(self, value: float) -> float:
        """A stored number as candidate minus baseline, where it is a change."""
        return -value if self.drop else value


METRICS: Mapping[str, Metric] = {
    ARTIFACT: Metric(
        "artifact",
        "at most {limit} differences between the checkpoints break plain use",
        True,
        _count,
        _count,
        name="differences that break plain use",
        counted="",
    ),
    "perplexity_drift": Metric(
        "perplexity",
        "perplexity rises by at most {limit}",
        True,
        _percent,
        _plain,
        counted="documents",
    ),
    "js_divergence": Metric(
        "JS",
        "predictions diverge by at most {limit} (Jensen-Shannon)",
        True,
        _nats,
        _nats,
        name="JS divergence",
        counted="documents",
    ),
    "exact_match_drop": Metric(
        "EM",
        "exact match falls by at most {limit}",
        True,
        _points,
        _share,
        drop=True,
        name="exact match",
    ),
    "f1_drop": Metric("F1", "F1 falls by at most {limit}", True, _points, _share, drop=True),
    "rouge1_drop": Metric(
        "ROUGE-1", "ROUGE-1 falls by at most {limit}", True, _points, _share, drop=True
    ),
    "accuracy_drop": Metric(
        "accuracy", "accuracy falls by at most {limit}", True, _points, _share, drop=True
    ),
    "flips": Metric("flips", "at most {limit} of the predictions flip", True, _share, _share),
    "confident_flips": Metric(
        "confident flips",
        "at most {limit} of the continuations flip a token that the baseline is confident of",
        True,
        _share,
        _share,
    ),
    "continuation_changes": Metric(
        "continuations",
        "at most {limit} of the continuations change",
        True,
        _share,
        _share,
        name="changed continuations",
    ),
    "continuation_parting": Metric(
        "parting",
        "at most {limit} of a continuation follows the first difference",
        True,
        _share,
        _share,
    ),
    "continuation_rouge1_drop": Metric(
        "cont. ROUGE-1",
        "ROUGE-1 of continuations against the baseline's own is at most {limit} below 100%",
        True,
        _points,
        _share,
        drop=True,
        name="ROUGE-1 of continuations",
    ),
    "compression_ratio": Metric(
        "size",
        "the compression ratio on disk is at least {limit}",
        False,
        _times,
        _bytes,
        name="compression ratio",
    ),
    "speedup": Metric(
        "speed",
        "a forward pass is at least {limit} as fast",
        False,
        _times,
        _milliseconds,
        noisy=True,
        sequential=True,
        counted="timed pairs",
    ),
    "weighted_score": Metric(
        "score",
        "the weighted score is at least {limit}",
        False,
        _plain,
        _plain,
        noisy=True,
        name="weighted score",
        counted="",
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
        f"the baseline has {metric.show_side(reading.baseline)} and guessing "
        f"{metric.show_side(guessed)}, so that a model that guesses would keep the limit of "
        f"{metric.unit.exactly(gate.limit, signed=False)}"
    )


def judge(candidate: str, gate: Gate, reading: Reading) -> Verdict:
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
