"""Figures as SVG or PNG files, drawn with matplotlib.

Plotly writes such files only with a browser. matplotlib, an optional dependency, needs none, and
draws both formats from the same :class:`evals.report.figure_data.Figure`.
"""

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from compression_gates.evals.data.paths import make_writable_folder, replace_files
from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.report.figure_data import (
    BARS,
    LINES,
    POINTS,
    Figure,
    Series,
    style_of,
    with_short_texts,
)

FORMATS = ("svg", "png")
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "cross": "P", "triangle-up": "^", "x": "X",
    "pentagon": "p", "hexagon": "h",
}  # fmt: skip
LINE_STYLES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
"""What matplotlib calls the symbols and dashes of :mod:`evals.report.figure_data`."""
WIDTH, HEIGHT, BAR_HEIGHT = 8.0, 5.0, 0.24
"""Size of a figure, and height of a bar, in inches."""
DPI = 150
TICK_ROOM = 70
"""Number of characters of all labels of an axis from which on they are rotated."""
LONGEST_NAME = 120
"""Characters of the name of a file, without its number."""
NOTE_WIDTH, NOTE_WIDTH_OF_BARS = 110, 75
"""Characters of a line of the note, which is as wide as the axes; labels of bars take room."""
_SETTINGS = {
    "text.parse_math": False,  # names may contain dollar signs
    "svg.fonttype": "none",
    "svg.hashsalt": "compression-gates",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def check_directory(directory: Path) -> None:
    """Raise an EvalError before the run if the figures cannot be written.

    Args:
        directory: of the figures; it is created.
    """
    if find_spec("matplotlib") is None:
        raise EvalError(
            "figures need matplotlib; install it with pip install 'compression-gates[figures]'"
        )
    make_writable_folder(directory, "folder of figures")


def write_figures(
    figures: Iterable[Figure], directory: Path, formats: Iterable[str] = FORMATS
) -> list[Path]:
    """Write each figure in each format, and return the files.

    Files of figures with the same name get numbers.

    Raises:
        EvalError: the directory cannot be written to.
    """
    import matplotlib as mpl

    written = []
    figures = list(map(with_short_texts, figures))
    names = unique_names(figure.name[:LONGEST_NAME] for figure in figures)
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # Glyphs that the font does not have are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        for figure, name in zip(figures, names, strict=True):
            canvas = _drawn(figure)
            for kind in formats:
                file = directory / f"{name}.{kind}"
                metadata = {"Date": None} if kind == "svg" else {}
                image = io.BytesIO()
                canvas.savefig(image, format=kind, dpi=DPI, metadata=metadata)
                try:
                    replace_files({file: image.getvalue()})
                except OSError as error:
                    raise EvalError(f"figure {file}: {error.strerror}") from error
                written.append(file)
    return written


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names with a number behind each that an earlier one equals.

    Names that differ only in case are equal: they are one file in some file systems.

    >>> unique_names(["a", "b", "A", "a"])
    ['a', 'b', 'A-2', 'a-3']
    """
    used: set[str] = set()
    chosen = []
    for name in names:
        numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        chosen.append(next(text for text in numbered if text.casefold() not in used))
        used.add(chosen[-1].casefold())
    return chosen


def _drawn(figure: Figure):
    """Return the figure of matplotlib, without its global state."""
    from matplotlib.figure import Figure as Canvas

    bars = sum(len(series.labels) for series in figure.series)
    height = 1.5 + BAR_HEIGHT * bars if figure.kind == BARS else HEIGHT
    canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
    axes = canvas.add_subplot()
    (_bars if figure.kind == BARS else _points)(axes, figure)
    axes.set_title(on_one_line(figure.title), loc="left", fontsize=10)
    note_width = NOTE_WIDTH_OF_BARS if figure.kind == BARS else NOTE_WIDTH
    note = textwrap.fill(on_one_line(figure.note), note_width)
    axes.set_xlabel(f"{on_one_line(figure.x_title)}\n{note}".strip(), fontsize=8)
    axes.set_ylabel(on_one_line(figure.y_title))
    if figure.x_ticks:
        axes.set_xticks([place for place, _ in figure.x_ticks])
        texts = [text for _, text in figure.x_ticks]
        is_crowded = sum(map(len, texts)) > TICK_ROOM
        axes.set_xticklabels(texts, **({"rotation": 30, "ha": "right"} if is_crowded else {}))
    for mark in figure.marks:
        (axes.axvline if mark.axis == "x" else axes.axhline)(
            mark.value, color="#666666", linestyle="--", linewidth=1
        )
        axes.annotate(
            on_one_line(mark.label),
            (mark.value, 1) if mark.axis == "x" else (1, mark.value),
            xycoords=("data", "axes fraction") if mark.axis == "x" else ("axes fraction", "data"),
            textcoords="offset points", xytext=(-3, -9 if mark.axis == "x" else 3), ha="right",
            fontsize=7, color="#666666",
        )  # fmt: skip
    if figure.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.grid(visible=True, axis="x" if figure.kind == BARS else "both", alpha=0.3)
    if figure.kind == POINTS or len(figure.series) > 1:
        canvas.legend(
            *axes.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=7
        )
    return canvas


def _bars(axes, figure: Figure) -> None:
    place, names = 0, []
    for index, series in enumerate(figure.series):
        places = range(place, place + len(series.labels))
        axes.barh(
            places, series.x, color=style_of(index).colour, label=on_one_line(series.name),
            xerr=_errors(series.x, series), error_kw={"ecolor": "#555555", "elinewidth": 1},
        )  # fmt: skip
        for y, value in zip(places, series.x, strict=True):
            axes.text(0, y, f" {value:.2f}", va="center", color="white", fontsize=7)
        names += series.short_labels or series.labels
        place += len(series.labels)
    axes.set_yticks(range(place), [on_one_line(name) for name in names], fontsize=7)
    axes.set_ylim(place - 0.4, -0.6)


def _points(axes, figure: Figure) -> None:
    for index, series in enumerate(figure.series):
        if not series.labels:
            continue
        style = style_of(index)
        colour = style.colour
        is_line = figure.kind == LINES
        marked = series.marked or (False,) * len(series.x)
        if is_line and series.low:
            axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.2)
        axes.errorbar(
            series.x, series.y, yerr=None if is_line else _errors(series.y, series), color=colour,
            marker=MARKERS[style.symbol], markersize=3 if is_line else 5, elinewidth=1, capsize=2,
            linestyle=LINE_STYLES[style.dash] if is_line else "none", linewidth=1,
            label=on_one_line(series.name),
        )  # fmt: skip
        stars = [i for i, mark in enumerate(marked) if mark]
        axes.plot(
            [series.x[i] for i in stars], [series.y[i] for i in stars], "*", color=colour,
            markersize=13, markeredgecolor="white", zorder=3,
        )  # fmt: skip


def _errors(values: Iterable[float], series: Series) -> list[list[float]] | None:
    """Return the lengths of the error bars ``[below, above]``; 0 for an end that is not finite."""
    if not series.low:
        return None
    below = [value - low for value, low in zip(values, series.low, strict=True)]
    above = [high - value for value, high in zip(values, series.high, strict=True)]
    return [[max(e, 0.0) if math.isfinite(e) else 0.0 for e in ends] for ends in (below, above)]
