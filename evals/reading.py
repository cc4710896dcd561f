"""What a metric reads off a pair of scored models, and the pairing itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evals.data import DataSet
from evals.errors import EvalError
from evals.estimate import Estimate
from evals.items import ItemValues
from evals.measurement import Measurement

SHOWN = 3
"""Worst items that a failing case prints."""
WIDTH = 160
"""Characters of a text that are printed."""


@dataclass(frozen=True)
class Scored:
    """A data set and what one model scored on it."""

    data: DataSet
    measurement: Measurement

    def __getitem__(self, name: str) -> np.ndarray:
        return self.measurement[name]


@dataclass(frozen=True)
class Reading:
    """A metric of one candidate.

    Attributes:
        estimate: what the gate's limit is held against.
        baseline: the metric's own number for the baseline, and
        candidate: for the candidate.
        worst: the items that lost most, described.
        facts: further numbers worth keeping.
        protocol: how the metric was measured, where its name alone does not say.
        not_judged: why there is nothing to judge, such as a speed without kernels; usually empty.
        items: the values that the estimate is of, item by item; None where there are none.
    """

    estimate: Estimate
    baseline: float
    candidate: float
    worst: tuple[str, ...] = ()
    facts: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    not_judged: str = ""
    items: ItemValues | None = field(default=None, compare=False, repr=False)


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


def worst_items(losses: Sequence[float] | np.ndarray, describe) -> tuple[str, ...]:
    """Descriptions of the items with the largest positive loss, NaN and largest first."""
    losses = np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=np.inf)
    order = np.argsort(-losses, kind="stable")[:SHOWN]
    return tuple(describe(int(index)) for index in order if losses[index] > 0)


def snippet(text: str, width: int = WIDTH) -> str:
    """``text`` on one line, shortened, with control characters escaped."""
    line = repr(text)
    return line if len(line) <= width else line[: width - 4] + "...'"
