"""The values of a metric over the runs of a history."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrendPoint:
    """The value of a metric in one run.

    Attributes:
        time: of the run, UTC, in ISO 8601.
        value, low, high: the estimate and its interval, as stored; NaN if there is none.
        commit: of the working folder; empty if unknown.
        accepted: whether the run was accepted as a reference.
    """

    time: str
    value: float
    low: float
    high: float
    commit: str = ""
    accepted: bool = False


@dataclass(frozen=True)
class Trend:
    """The values of a metric of one candidate over the runs of a history.

    Attributes:
        candidate, metric: what was measured.
        points: the runs, the earliest first.
        steps: indexes of the points at which the level changed.
    """

    candidate: str
    metric: str
    points: tuple[TrendPoint, ...]
    steps: tuple[int, ...] = ()
