"""What a figure shows, independent of the library that draws it."""

from dataclasses import dataclass

BARS, POINTS, LINES = "bars", "points", "lines"
"""Kinds of figures: horizontal bars; single points; points joined by lines."""
COLOURS = ("#3b8fc4", "#d9702b", "#2a9d76", "#c274a6", "#a58a1c", "#7a70c9", "#c04a4a", "#808080")
SYMBOLS = (
    "circle", "square", "diamond", "cross", "triangle-up", "x", "pentagon", "hexagon",
)  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
"""Colours, symbols of points and dashes of lines of series, with the names that Plotly uses."""


@dataclass(frozen=True)
class SeriesStyle:
    """Colour, symbol of points, and dash of lines of a series."""

    colour: str
    symbol: str
    dash: str


def style_of(index: int) -> SeriesStyle:
    """Return the style of the series ``index`` of a figure.

    Series with the same colour and symbol have different dashes, until all are used.
    """
    return SeriesStyle(
        COLOURS[index % len(COLOURS)],
        SYMBOLS[index % len(SYMBOLS)],
        DASHES[(index + index // len(COLOURS)) % len(DASHES)],
    )


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
