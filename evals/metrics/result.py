"""The result of a metric on a scored pair, and the checks that the two sides are comparable."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.regressions import Regressions
from compression_gates.evals.statistics.estimate import NO_ESTIMATE, Estimate
from compression_gates.evals.statistics.item_values import ItemValues
from compression_gates.evals.store.measurement import Measurement


@dataclass(frozen=True)
class Scored:
    """A data set and what one model scored on it.

    Attributes:
        protocol: how it was measured, if it was not measured by this suite.
        results: what metrics have computed of it, by name: the function, the baseline's side and
            the result.
    """

    data: DataSet
    measurement: Measurement
    protocol: str = ""
    results: dict[str, tuple[Callable, "Scored | None", "MetricResult"]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __getitem__(self, name: str) -> np.ndarray:
        return self.measurement[name]

    @property
    def is_one_document(self) -> bool:
        """Whether all items are of one document, so that ``cluster`` holds its windows in order."""
        return len(set(self.data.documents)) == 1


@dataclass(frozen=True)
class MetricResult:
    """The result of a metric for one candidate.

    Attributes:
        estimate: the estimate that the gate compares with its limit.
        baseline, candidate: the metric's value for either model by itself.
        worst: the items that got worse, the largest loss first.
        facts: further numbers for the report.
        protocol: how the metric was measured; empty if its name says it all.
        not_judged: why the metric cannot be judged, such as a speed without kernels; empty if it
            can.
        reasons: causes of the result, one per line, if items do not show them.
        kernel: the engine and the kernels that computed the candidate, if it was run for this.
        evidence: further numbers for the report, one line each.
        level: if the metric is the drop of a score, the candidate's own score.
        items: the per-item values behind the estimate; None if there are none.
    """

    estimate: Estimate
    baseline: float
    candidate: float
    worst: Regressions = field(default_factory=Regressions)
    facts: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    not_judged: str = ""
    reasons: tuple[str, ...] = ()
    kernel: str = ""
    evidence: tuple[str, ...] = ()
    level: Estimate | None = field(default=None, compare=False, repr=False)
    items: ItemValues | None = field(default=None, compare=False, repr=False)


NO_DATA = "there are no "


def not_judged(reason: str) -> MetricResult:
    """Return the result of a metric that cannot be judged for the given reason."""
    return MetricResult(NO_ESTIMATE, math.nan, math.nan, not_judged=reason)


def no_data(data: str) -> MetricResult:
    """Return the result of a metric whose data, such as ``texts with labels``, were not given."""
    return not_judged(f"{NO_DATA}{data}")


def at_chance(level: str) -> str:
    """Return the reason why a metric is not judged if the baseline is at chance level.

    Args:
        level: the baseline's score in words, such as ``an accuracy of 50.00%``.
    """
    return f"the baseline has {level}, which is no better than chance; do the data fit the model?"


def chance_level_tokens(baseline: Scored, candidate: Scored) -> MetricResult | None:
    """Return a result that is not judged if the baseline predicts tokens no better than a uniform
    distribution over the vocabulary.

    Returns:
        None if it predicts them better, if the size of the vocabulary is unknown, or if the
        candidate's losses are not finite, which fails in any case.
    """
    if not np.isfinite(candidate["nll"]).all():
        return None
    vocabulary = baseline.measurement.arrays.get("vocabulary")
    mean = float(baseline["nll"].mean(dtype=np.float64))
    if vocabulary is None or not mean >= math.log(int(vocabulary)):
        return None
    level = (
        f"a perplexity of {math.exp(min(mean, 700)):,.0f} with a vocabulary of {int(vocabulary):,}"
    )
    return not_judged(at_chance(level))


def check_paired(baseline: Scored, candidate: Scored) -> None:
    """Check that both sides were scored on the same items, by the same protocol and code, and in
    the same environment.

    Raises:
        EvalError: they differ in one of these.
    """
    for part in ("data", "protocol", "environment", "code"):
        digests = [side.measurement.origin.get(part) for side in (baseline, candidate)]
        if digests[0] != digests[1]:
            raise EvalError(
                f"not comparable: {part} is {digests[0]} for the baseline and {digests[1]} for the "
                "candidate"
            )


def check_same_tokens(baseline: Scored, candidate: Scored) -> None:
    """Check that both sides predicted the same tokens in the same windows.

    Raises:
        EvalError: the windows or the tokens differ.
    """
    windows = [tuple(side["windowing"].tolist()) for side in (baseline, candidate)]
    if windows[0] != windows[1]:
        sides = [f"{context} tokens with a stride of {stride}" for context, stride in windows]
        raise EvalError(
            f"not comparable: windows of {sides[0]} for the baseline and of {sides[1]} for the "
            "candidate"
        )
    if not np.array_equal(baseline["tokens"], candidate["tokens"]):
        raise EvalError(
            "the two tokenizers split the text differently, so their tokens cannot be paired"
        )
