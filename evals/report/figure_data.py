"""What a figure shows, independent of the library that draws it."""

from dataclasses import dataclass

BARS, POINTS, LINES = "bars", "points", "lines"
"""Kinds of figures: horizontal bars; single points; points joined by lines."""


@dataclass(frozen=True)
class Series:
    """Points of one colour and symbol.

    Attributes:
        name: in the legend.
        x, y: of the points; NaN interrupts a line. In :data:`BARS`, ``x`` are the lengths, and
            ``labels`` the names of the bars.
        labels: what each point is, such as the candidate.
        low, high: ends of the interval of ``y``, or of ``x`` in :data:`BARS`; empty without.
        marked: whether a point is emphasized, as the figure's note explains; empty for none.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[str, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    marked: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A straight line across a figure at ``value`` of an axis, such as a limit."""

    axis: str
    value: float
    label: str


@dataclass(frozen=True)
class Figure:
    """What one figure shows.

    Attributes:
        name: of its file, without a suffix.
        title, x_title, y_title: texts.
        kind: :data:`BARS`, :data:`POINTS` or :data:`LINES`.
        series: the data.
        note: what a reader has to know, such as what intervals are and what is left out.
        x_ticks: positions and texts, in place of numbers.
        marks: straight lines across the figure.
        is_log: whether the axis ``y`` is logarithmic.
    """

    name: str
    title: str
    kind: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    note: str = ""
    x_ticks: tuple[tuple[float, str], ...] = ()
    marks: tuple[Mark, ...] = ()
    is_log: bool = False
