"""What a metric reads off a pair of scored models, and the pairing itself."""

import math
from dataclasses import dataclass, field

import numpy as np

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.regressions import Regressions
from compression_gates.evals.statistics.estimate import NOTHING, Estimate
from compression_gates.evals.statistics.item_values import ItemValues
from compression_gates.evals.store.measurement import Measurement


@dataclass(frozen=True)
class Scored:
    """A data set and what one model scored on it.

    Attributes:
        protocol: how it was measured, where that was not done by this suite.
    """

    data: DataSet
    measurement: Measurement
    protocol: str = ""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.measurement[name]

    @property
    def is_one_document(self) -> bool:
        """Whether all items are of one document, so that ``cluster`` holds its windows in order."""
        return len(set(self.data.documents)) == 1


@dataclass(frozen=True)
class Reading:
    """A metric of one candidate.

    Attributes:
        estimate: what the gate's limit is held against.
        baseline: the metric's own number for the baseline, and
        candidate: for the candidate.
        worst: the items that got worse, those that lost most first.
        facts: further numbers worth keeping.
        protocol: how the metric was measured, where its name alone does not say.
        not_judged: why there is nothing to judge, such as a speed without kernels; usually empty.
        reasons: why the number is what it is, a line each, where items do not say it.
        level: where the metric is a drop of a score, the score of the candidate itself.
        items: the values that the estimate is of, item by item; None where there are none.
    """

    estimate: Estimate
    baseline: float
    candidate: float
    worst: Regressions = field(default_factory=Regressions)
    facts: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    not_judged: str = ""
    reasons: tuple[str, ...] = ()
    level: Estimate | None = field(default=None, compare=False, repr=False)
    items: ItemValues | None = field(default=None, compare=False, repr=False)


NO_DATA = "there are no "


def not_judged(reason: str) -> Reading:
    """Of a metric that cannot be judged, and why."""
    return Reading(NOTHING, math.nan, math.nan, not_judged=reason)


def no_data(what: str) -> Reading:
    """Of a metric whose data were not given."""
    return not_judged(f"{NO_DATA}{what}")


def at_chance(level: str) -> str:
    """Why a metric is not judged of which the baseline is no better than chance, so that it has
    nothing to lose; ``level`` is what it has, as a reader should see it."""
    return f"the baseline has {level}, which is no better than chance; do the data fit the model?"


def guessed_tokens(baseline: Scored, candidate: Scored) -> Reading | None:
    """What is read of a text on which the baseline is no better than a model that gives all tokens
    the same probability; None where it is better, where that was not logged, or where the candidate
    computed what is not a number, which is a failure all the same."""
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
    """Both sides were scored on the same items, by the same protocol, in the same place.

    Raises:
        EvalError: names what differs.
    """
    for part in ("data", "protocol", "environment", "code"):
        one, two = (side.measurement.origin.get(part) for side in (baseline, candidate))
        if one != two:
            raise EvalError(f"not comparable: {part} is {one} for the baseline, {two} else")


def check_same_tokens(baseline: Scored, candidate: Scored) -> None:
    """Both sides predicted the same tokens in the same windows.

    Raises:
        EvalError: names what differs.
    """
    windows = [tuple(side["windowing"].tolist()) for side in (baseline, candidate)]
    if windows[0] != windows[1]:
        raise EvalError(
            "not comparable: windows of {} tokens, {} apart, for the baseline, ".format(*windows[0])
            + "of {}, {} apart, for the candidate".format(*windows[1])
        )
    if not np.array_equal(baseline["tokens"], candidate["tokens"]):
        raise EvalError("the two tokenizers cut the text differently; token by token means nothing")
