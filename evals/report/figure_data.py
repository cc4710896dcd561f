"""What a figure shows, independent of the library that draws it."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

from compression_gates.evals.foreign_text import printable
from compression_gates.evals.report.layout import shortened

BARS, POINTS, LINES = "bars", "points", "lines"
"""Kinds of figures: horizontal bars; single points; points joined by lines."""
COLOURS = ("#3b8fc4", "#d9702b", "#2a9d76", "#c274a6", "#a58a1c", "#7a70c9", "#c04a4a", "#808080")
SYMBOLS = (
    "circle", "square", "diamond", "cross", "triangle-up", "x", "pentagon", "hexagon",
)  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
"""Colours, symbols of points and dashes of lines of series, with the names that Plotly uses."""
LONGEST_TEXT, LONGEST_TICK = 60, 30
"""Largest number of characters of a name, title or mark, and of a tick of the axis ``x``."""


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
        short_labels: of bars, as an axis shows them; empty if they are ``labels``.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[str, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    marked: tuple[bool, ...] = ()
    short_labels: tuple[str, ...] = ()


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


def with_short_texts(figure: Figure) -> Figure:
    """Return a figure whose title, names, ticks and marks are escaped and have room.

    Longer texts lose their middle, and different texts stay different. The labels of points are
    unchanged, because no axis shows them.
    """

    def short(texts: Iterable[str], length: int = LONGEST_TEXT) -> list[str]:
        return shortened(list(map(printable, texts)), length)

    names = short(series.name for series in figure.series)
    series = [replace(s, name=name) for s, name in zip(figure.series, names, strict=True)]
    if figure.kind == BARS:
        labels = iter(short(label for one in series for label in one.labels))
        short_labels = [tuple(itertools.islice(labels, len(one.labels))) for one in series]
        series = [
            replace(one, short_labels=shown if shown != one.labels else ())
            for one, shown in zip(series, short_labels, strict=True)
        ]
    ticks = short((text for _, text in figure.x_ticks), LONGEST_TICK)
    marks = short(mark.label for mark in figure.marks)
    return replace(
        figure,
        title=short([figure.title])[0],
        series=tuple(series),
        x_ticks=tuple((x, text) for (x, _), text in zip(figure.x_ticks, ticks, strict=True)),
        marks=tuple(replace(m, label=label) for m, label in zip(figure.marks, marks, strict=True)),
    )
