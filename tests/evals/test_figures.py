import math
import re
import warnings
from dataclasses import asdict, replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.history.series import GatePoint, GateSeries
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.report import page_data, static_figures
from compression_gates.evals.report.figure_data import style_of
from compression_gates.evals.report.figures import (
    MOST_BARS,
    MOST_LINES,
    QUANTILES,
    SMALLEST_DIVERGENCE,
    divergence_quantiles,
    figures,
    method_of,
    trend_figure,
)
from compression_gates.evals.report.report import Entry
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.item_values import MEAN, ItemValues
from tests.evals import pages


def entry(row, metric, value, limit, half=0.0, levels=(1.0, 2.0), group="m"):
    estimate = Estimate(value, value - half, value + half, 50, 50)
    verdict = verdict_of(f"{group}-{row}", Gate(metric, limit), MetricResult(estimate, *levels))
    return Entry(group, row, verdict, verdict.met)


def candidate(row, perplexity, drop, size=1.0, speed=1.0, js=0.001):
    return [
        entry(row, "perplexity_drift", perplexity, 0.05),
        entry(row, "js_divergence", js, 0.01, half=js / 2),
        entry(row, "exact_match_drop", drop, 0.02, half=0.01, levels=(0.8, 0.8 - drop)),
        entry(row, "compression_ratio", size, 0.99),
        entry(row, "speedup", speed, 0.8),
    ]


ENTRIES = [
    *candidate("rtn-int8", 0.001, 0.0, size=3.0, speed=0.9),
    *candidate("wanda-2:4", 0.01, 0.3, js=0.1),
    *candidate("magnitude-50", 0.2, 0.4),
]


def by_name(entries=ENTRIES, items=None):
    return {figure.name: figure for figure in figures(entries, items)}


def stored(values):
    ones = np.ones(len(values), dtype=np.int32)
    documents = np.arange(len(values), dtype=np.int32)
    return ItemValues(MEAN, np.asarray(values, np.float32), ones, documents, {})


def test_bars_are_the_own_scores_with_the_interval_of_the_difference():
    [series] = by_name()["task-exact_match_drop"].series
    assert series.labels == ("m (baseline)", "m-rtn-int8", "m-wanda-2:4", "m-magnitude-50")
    assert series.x == pytest.approx((80, 80, 50, 40))
    assert series.low == pytest.approx((80, 79, 49, 39))
    assert series.high == pytest.approx((80, 81, 51, 41))


def test_perplexity_against_the_task_shows_what_perplexity_misses():
    figure = by_name()["perplexity-task"]
    names = {series.labels: series.name for series in figure.series if series.labels}
    assert names == {
        ("m-rtn-int8",): "both keep their limits",
        ("m-wanda-2:4",): "only the task breaks its limit: perplexity misses it",
        ("m-magnitude-50",): "both break their limits",
    }
    missed = figure.series[1]
    assert (missed.x[0], missed.y[0]) == pytest.approx((1, 30))
    assert [(mark.axis, mark.value) for mark in figure.marks] == [("x", 5.0), ("y", 2.0)]


def test_size_against_quality_marks_the_front():
    [series] = by_name()["size-quality"].series
    points = dict(zip(series.labels, zip(series.x, series.y, series.marked, strict=True),
                      strict=True))  # fmt: skip
    assert points["m-rtn-int8"] == (3.0, pytest.approx(80), True)
    assert points["m-wanda-2:4"] == (1.0, pytest.approx(50), True)  # faster than rtn-int8
    assert points["m-magnitude-50"] == (1.0, pytest.approx(40), False)


def test_parallel_coordinates_run_from_the_smallest_to_the_largest_value():
    figure = by_name()["parallel"]
    [series] = figure.series
    assert [text.split("\n")[0] for _, text in figure.x_ticks] == ["size", "quality", "speed"]
    lines = {series.labels[i]: series.y[i : i + 3] for i in range(0, len(series.y), 4)}
    assert lines["m-rtn-int8"] == pytest.approx((1, 1, 0))
    assert lines["m-wanda-2:4"] == pytest.approx((0, 0.25, 1))
    assert all(math.isnan(value) for value in series.y[3::4])


def test_divergences_stand_by_method_on_a_logarithmic_axis():
    figure = by_name()["divergence-method"]
    assert [text for _, text in figure.x_ticks] == ["magnitude", "rtn", "wanda"]
    [series] = figure.series
    assert dict(zip(series.labels, series.x, strict=True)) == {
        "m-magnitude-50": 0, "m-rtn-int8": 1, "m-wanda-2:4": 2,
    }  # fmt: skip
    assert figure.is_log


def test_candidates_of_a_method_are_beside_one_another_in_order_of_their_divergence():
    entries = [
        *candidate("wanda-50", 0.01, 0.1, js=0.3),
        *candidate("rtn-int8", 0.01, 0.1, js=0.2),
        *candidate("wanda-30", 0.01, 0.1, js=0.1),
        *candidate("wanda-2:4", 0.01, 0.1, js=0.5),
    ]
    figure = by_name(entries)["divergence-method"]
    [series] = figure.series
    places = dict(zip(series.labels, series.x, strict=True))
    assert figure.x_ticks == ((0, "rtn"), (1, "wanda"))
    assert places["m-rtn-int8"] == 0
    assert places["m-wanda-30"] < places["m-wanda-50"] == 1 < places["m-wanda-2:4"]
    assert max(abs(place - round(place)) for place in series.x) <= 0.3


def test_quantiles_of_the_divergence_are_those_of_the_items():
    values = np.random.default_rng(0).exponential(0.01, 200)
    figure = divergence_quantiles({("m-a", "js_divergence"): stored(values)})
    expected = [np.quantile(values.astype(np.float32), level) for level in QUANTILES]
    assert figure.series[0].y == pytest.approx(expected)
    assert "rounding" not in figure.note
    figure = divergence_quantiles({("m-a", "js_divergence"): stored([0.0, 0.1])})
    assert figure.series[0].y[0] == SMALLEST_DIVERGENCE
    assert "rounding" in figure.note
    assert divergence_quantiles({("m-a", "flips"): stored([0.0, 1.0])}) is None


def test_the_worst_are_kept_and_the_note_says_how_many():
    many = [e for i in range(MOST_BARS + 5) for e in candidate(f"c-{i}", 0.0, i / 1000)]
    figure = by_name(many)["task-exact_match_drop"]
    [series] = figure.series
    assert len(series.labels) == MOST_BARS + 1
    assert f"The {MOST_BARS} lowest of {MOST_BARS + 5}" in figure.note
    assert "m-c-0" not in series.labels
    items = {(f"m-{i}", "js_divergence"): stored([i + 1.0]) for i in range(MOST_LINES + 1)}
    figure = divergence_quantiles(items)
    assert len(figure.series) == MOST_LINES
    assert f"The {MOST_LINES} of {MOST_LINES + 1}" in figure.note


def test_no_figure_without_its_data():
    assert figures([]) == []
    assert list(by_name([entry("a", "compression_ratio", 2.0, 1.0)])) == []
    nan = [replace(e, verdict=replace(e.verdict, value=math.nan, measured=math.nan))
           for e in ENTRIES]  # fmt: skip
    assert by_name(nan) == {}


def test_a_trend_is_displayed_as_the_metric_is():
    points = tuple(
        GatePoint(i, f"2026-01-0{i + 1}T00:00:00", f"commit{i}", 0.01 * i, 0.01 * i - 0.02,
                  0.01 * i + 0.03, i == 1)
        for i in range(3)
    )  # fmt: skip
    figure = trend_figure(pages.series("m-a", "accuracy_drop", points, 2))
    [series] = figure.series
    assert series.y == pytest.approx((0, -1, -2))  # a drop is displayed as candidate - baseline
    assert series.low == pytest.approx((-3, -4, -5))
    assert series.high == pytest.approx((2, 1, 0))
    assert series.marked == (False, True, False)
    assert [(mark.axis, mark.value) for mark in figure.marks] == [("x", 2.0)]
    assert figure.x_ticks[0] == (0.0, "2026-01-01")


@pytest.mark.parametrize(
    ("row", "method"),
    [("wanda-50", "wanda"), ("wanda-50+gptq-int4", "wanda+gptq"), ("fp8", "fp"),
     ("svd-60", "svd"), ("4:8", "4:8"), ("student-labels", "student")],
)  # fmt: skip
def test_the_method_is_what_stands_before_the_settings(row, method):
    assert method_of(row) == method


def test_names_of_files_are_safe():
    point = GatePoint(1, "2026", "", 0.1, 0.0, 0.2, False)
    trend = GateSeries("../../etc/$(rm) \u202e<b>", "flips", 0.1, (point,), ())
    assert trend_figure(trend).name == "trend-etc-rm-b-flips"


def test_a_trend_marks_where_runs_cannot_be_compared():
    points = [GatePoint(n, f"2026-11-0{n}", "", 0.1, 0.0, 0.2, False) for n in (1, 2)]
    trend = GateSeries("m-a", "flips", 0.1, points, (), {1: "the data differ"})
    [mark] = trend_figure(trend).marks
    assert (mark.value, mark.label) == (1.0, "the data differ")


def test_both_formats_are_drawn_from_the_same_data(tmp_path):
    pytest.importorskip("matplotlib")
    hostile = [replace(e, group="$x_{1}$<b>\u202e\x1b[31m") for e in ENTRIES]
    items = {("m-a", "js_divergence"): stored([0.0, 0.1])}
    drawn = figures([*ENTRIES, *hostile], items)
    point = GatePoint(1, "2026", "", 0.1, math.nan, math.nan, False)
    trend = trend_figure(pages.series("m-a", "flips", (point, point)))
    files = static_figures.write_figures([*drawn, trend], tmp_path)
    assert {file.name for file in files} == set(
        chain.from_iterable((f"{f.name}.svg", f"{f.name}.png") for f in [*drawn, trend])
    )
    svg = (tmp_path / "size-quality.svg").read_text(encoding="utf-8")
    assert "Size against quality" in svg
    assert "compression ratio" in svg
    assert "$x_{1}$&lt;b&gt;\\u202e\\x1b[31m" in svg
    assert all(f.read_bytes()[1:4] == b"PNG" for f in files if f.suffix == ".png")


def test_figures_whose_names_differ_in_unsafe_characters_or_case_have_files_of_their_own(tmp_path):
    pytest.importorskip("matplotlib")
    point = GatePoint(1, "2026", "", 0.1, 0.0, 0.2, False)
    names = ["m-wanda-2:4", "m-wanda-2-4", "M-wanda-2:4", "m-wanda-2:4-flips-2"]
    trends = [trend_figure(pages.series(name, "flips", (point, point))) for name in names]
    files = static_figures.write_figures(trends, tmp_path, ["svg"])
    assert len({file.name.casefold() for file in files}) == len(names)
    assert files[0].name == "trend-m-wanda-2-4-flips.svg"
    for name, file in zip(names, files, strict=True):
        assert f">{name}: " in file.read_text(encoding="utf-8")


def test_long_names_leave_room_and_stay_different(tmp_path):
    """The names differ only in their middle, which is omitted first."""
    pytest.importorskip("matplotlib")
    rows = [f"{'p' * 110}-{middle}-{'q' * 110}" for middle in ("first", "second", "third")]
    entries = [e for i, row in enumerate(rows) for e in candidate(row, 0.01, 0.1 * i, 2.0 + i)]
    entries = [replace(e, group=f"{'z' * 220}-{index % 2}") for index, e in enumerate(entries)]
    items = {(f"m-{row}", "js_divergence"): stored([0.1, 0.2]) for row in rows}
    point = GatePoint(1, "2026", "", 0.1, 0.0, 0.2, False)
    trends = [trend_figure(pages.series(f"m-{row}", "flips", (point, point))) for row in rows]
    drawn = [*figures(entries, items), *trends]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that no room is left for the axes
        files = static_figures.write_figures(drawn, tmp_path)
    assert len(set(files)) == 2 * len(drawn)
    for figure, file in zip(drawn, files[::2], strict=True):
        svg = file.read_text(encoding="utf-8")
        texts = re.findall("<text [^>]*>([^<]*)</text>", svg)
        long = [text for text in texts if re.search("ppp|qqq|zzz", text)]
        assert [text for text in long if len(text) > 60 or "…" not in text] == []
        assert len(set(long)) == len(long), figure.name
        values = page_data.figure_json(figure)
        assert all(len(series["name"]) <= 60 for series in values["series"])
        assert all(len(text) <= 30 for _, text in values.get("x_ticks", ()))
        assert len(values["title"]) <= 60
        if figure.kind == "bars":
            short = [text for series in values["series"] for text in series["short_labels"]]
            assert len(set(short)) == sum(len(series["labels"]) for series in values["series"])


def test_a_number_in_the_name_of_a_file_is_not_that_of_another_figure():
    assert static_figures.unique_names(["a", "A", "a-2", "a", "b"]) == [
        "a", "A-2", "a-2-2", "a-3", "b",
    ]  # fmt: skip


@given(st.lists(st.text("aA-2", max_size=4), max_size=12))
def test_names_of_files_are_unique(names):
    files = static_figures.unique_names(names)
    assert len({name.casefold() for name in files}) == len(names)
    assert all(file.startswith(name) for file, name in zip(files, names, strict=True))


def test_series_of_a_figure_have_styles_that_differ_and_that_both_libraries_draw():
    styles = [style_of(index) for index in range(32)]
    assert len(set(styles)) == len(styles)
    assert {style.symbol for style in styles} == set(static_figures.MARKERS)
    assert {style.dash for style in styles} == set(static_figures.LINE_STYLES)
    [figure] = [figure for figure in figures(ENTRIES) if figure.name == "perplexity-task"]
    drawn = page_data.figure_json(figure)["series"]
    assert [series["style"] for series in drawn] == [asdict(style) for style in styles[:4]]


def test_figures_are_refused_before_the_run(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(static_figures, "find_spec", lambda name: None)
    with pytest.raises(EvalError, match="figures need matplotlib"):
        static_figures.check_directory(tmp_path / "new")
    monkeypatch.setattr(static_figures, "find_spec", lambda name: True)
    with pytest.raises(EvalError, match="folder of figures"):
        static_figures.check_directory(tmp_path / "file" / "new")
    static_figures.check_directory(tmp_path / "new")
    assert (tmp_path / "new").is_dir()


def test_a_large_rise_of_perplexity_is_at_the_edge_and_in_the_note():
    entries = [
        entry(row, metric, value, limit)
        for row, rise in (("a", 0.01), ("b", 18.0))
        for metric, value, limit in (
            ("perplexity_drift", rise, 0.05),
            ("exact_match_drop", 0.5, 0.02),
        )
    ]
    figure = by_name(entries)["perplexity-task"]
    places = {label: x for s in figure.series for label, x in zip(s.labels, s.x, strict=True)}
    assert places == {"m-a": pytest.approx(1.0), "m-b": pytest.approx(50.0)}
    assert "At the right edge, 1 candidate with a rise of more than 50%." in figure.note
