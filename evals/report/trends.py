"""The trends of gates over the runs of a history, as rows of ``report.jsonl``."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from compression_gates.evals.errors import EvalError
from compression_gates.evals.history.series import GatePoint, GateSeries, LevelStep
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.report.report_rows import Row, known_fields, with_nan


def trend_rows(trends: Iterable[GateSeries]) -> list[dict[str, object]]:
    """Return one row per series."""
    return [{"trend": asdict(trend)} for trend in trends]


def trends_of(rows: Iterable[Row]) -> list[GateSeries]:
    """Return the series of the rows that hold one.

    Raises:
        EvalError: a row is damaged, or its metric is not registered.
    """
    return [_series(row["trend"]) for row in rows if row.get("trend") is not None]


def _series(row: object) -> GateSeries:
    try:
        values = known_fields(GateSeries, with_nan(row, ("limit",)))
        values["points"] = tuple(map(_point, row["points"]))
        values["steps"] = tuple(map(_step, row["steps"]))
        if "breaks" in values:
            values["breaks"] = {int(at): str(reason) for at, reason in values["breaks"].items()}
        series = GateSeries(**values)
        for at in (*(step.point for step in series.steps), *values.get("breaks", ())):
            series.points[at]  # raises an IndexError if there is no such point
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise EvalError(f"a row of the report is not a trend: {error}") from error
    if series.metric not in METRICS:
        raise EvalError(f"metric {series.metric} is not registered; import its module first")
    return series


def _point(row: Row) -> GatePoint:
    return GatePoint(**known_fields(GatePoint, _texts(with_nan(row, ("value", "low", "high")))))


def _step(row: Row) -> LevelStep:
    return LevelStep(**known_fields(LevelStep, _texts(with_nan(row, ("before", "after")))))


def _texts(row: Row) -> Mapping[str, object]:
    return dict(row) | {name: str(row[name]) for name in ("time", "commit")}
