"""The page of a report as text; tests/end_to_end/test_page_in_browser.py opens it."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import ADVISORY, FAILED
from compression_gates.evals.history.series import GatePoint
from compression_gates.evals.report import page, page_data, report_folder
from compression_gates.evals.report.__main__ import main
from compression_gates.evals.report.report_rows import entries_of, read_report
from compression_gates.evals.report.trends import trend_rows, trends_of
from tests.evals import pages

SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and the text outside of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag) :]

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open[-1:]):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def data_of(html):
    return json.loads(DATA.search(html)[1])


@pytest.fixture(scope="module")
def small():
    return page.render(report_folder.report_rows(pages.small_report()))


@pytest.fixture(scope="module")
def hostile():
    rows = pages.hostile_report()
    point = GatePoint(1, pages.HOSTILE, pages.HOSTILE, 0.1, 0.0, 0.2, False)
    trend = pages.series(pages.HOSTILE, "flips", (point, point), 1)
    return page.render([*rows, *report_folder.report_rows([], trend_rows([trend]))])


def test_each_case_is_a_button_with_its_evidence(small):
    buttons = [attributes for tag, attributes in Elements(small).elements
               if tag == "button" and "data-cell" in attributes]  # fmt: skip
    cells = data_of(small)["cells"]
    entries = pages.small_report()
    assert sorted(int(button["data-cell"]) for button in buttons) == list(range(len(entries)))
    for cell, entry in zip(cells, entries, strict=True):
        assert (cell["candidate"], cell["metric"]) == (entry.verdict.candidate,
                                                       entry.verdict.metric)  # fmt: skip
    failed = next(c for c in cells if c["candidate"] == "m-wanda-50"
                  and c["metric"] == "js_divergence")  # fmt: skip
    assert failed["value"] == "0.0300 nats"
    assert failed["interval"] == "0.0290 to 0.0310 nats (95%)"
    assert (failed["limit"], failed["size"]) == ("≤ 0.0100 nats", "500 in 100 documents")
    one = replace(entries[0], verdict=replace(entries[0].verdict, unit="windows"))
    assert page_data.details([one])["cells"][0]["size"] == "500 in 100 windows"
    assert failed["rerun"] == "compression-gates -k wanda-50"
    assert failed["message"] == "js_divergence failed"
    assert (len(failed["items"]), failed["itemsTotal"]) == (10, 14)
    texts = data_of(small)["texts"]
    assert texts[failed["items"][0]["prompt"]] == "Who lives in Fenwick? (1)"
    assert texts[failed["items"][0]["candidate"]] == "Oskar 1"


def test_outcomes_have_a_mark_and_a_word(small):
    cells = {(c["candidate"], c["metric"]): c for c in data_of(small)["cells"]}
    shown = {
        key: (cells[key]["mark"], cells[key]["word"])
        for key in [("m-rtn-int8", "js_divergence"), ("m-wanda-50", "js_divergence"),
                    ("m-magnitude-50", "js_divergence"), ("m-fp8", "speedup"),
                    ("m-svd-60", "js_divergence")]
    }  # fmt: skip
    assert list(shown.values()) == [
        ("✓", "passed"), ("✗", "failed"), ("(✗)", "known failure"), ("–", "not judged"),
        ("✗≈", "failed, inconclusive"),
    ]  # fmt: skip


def test_marks_are_explained_and_a_broken_limit_is_never_shown_as_kept():
    entries = pages.small_report()
    failed = next(entry for entry in entries if entry.verdict.outcome == FAILED)
    advisory = replace(failed, verdict=replace(failed.verdict, tier=ADVISORY), passed=True, text="")
    gain = pages.entry("gain", "exact_match_drop", -0.1)
    shown = {"△": page_data.ADVICE, "↑": page_data.GAIN}
    for entry, (mark, outcome) in zip([advisory, gain], shown.items(), strict=True):
        assert page_data.outcomes_of(entry) == [outcome]
        assert page_data.mark_of(entry) == mark
    for entry in [*entries, advisory, gain]:
        marks = [line.split()[0] for line in page_data.legend_of([entry])]
        for mark in page_data.mark_of(entry).replace("✗≈", "✗ ≈").split():
            assert mark in marks


def test_counts_stand_on_top_and_the_decision_before_them(small):
    text = Elements(small).text
    assert "32 gates: 8 failed , 7 known failures , 1 not judged , 16 passed" in text
    row = {"decision": {"word": "do not release", "reason": "m-wanda-50 failed"}}
    decided = page.render([*report_folder.report_rows(pages.small_report()), row])
    text = Elements(decided).text
    assert text.index("do not release : m-wanda-50 failed") < text.index("32 gates")


def test_the_policy_admits_the_scripts_of_the_page_and_nothing_else(small):
    [policy] = [attributes["content"] for tag, attributes in Elements(small).elements
                if attributes.get("http-equiv") == "Content-Security-Policy"]  # fmt: skip
    directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    digests = [hashlib.sha256(text.encode()).digest() for text in SCRIPT.findall(small)]
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    assert len(hashes) == 2
    assert directives["script-src"].split() == hashes
    assert {name: value for name, value in directives.items() if name != "script-src"} == {
        "default-src": "'none'", "style-src": "'unsafe-inline'", "img-src": "data:",
        "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip


def test_nothing_is_loaded_from_elsewhere(small):
    for tag, attributes in Elements(small).elements:
        assert "src" not in attributes
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
        assert attributes.get("href", "#").startswith("#")


def test_hostile_names_and_texts_add_no_element(small, hostile):
    harmless = {tag for tag, _ in Elements(small).elements} | {"ul", "li", "dl", "dt", "dd"}
    elements = Elements(hostile)
    assert {tag for tag, _ in elements.elements} <= harmless
    assert sum(tag == "script" for tag, _ in elements.elements) == 3
    for _, attributes in elements.elements:
        assert not any(name.startswith("on") for name in attributes)
    assert "</script><script>window.attacked=1</script>" in elements.text
    assert "\\u202e\\u2066 \\x1b[31m\\x00 \\u2028\\u2029 \\ud800" in elements.text
    assert "{{7*7}}" in elements.text


def test_no_raw_control_character_is_in_the_page(hostile):
    written = hostile.replace(page._plotly(), "")
    assert all(c.isprintable() or c == "\n" for c in written if c not in "\t")
    embedded = DATA.search(hostile)[1]
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert page_data.printable(pages.HOSTILE) in data_of(hostile)["texts"]


def test_long_lines_are_cut(hostile):
    data = data_of(hostile)
    longest = max(map(len, data["texts"]))
    assert page_data.LONGEST_TEXT < longest < page_data.LONGEST_TEXT + 100
    assert any("96,000 more characters" in text for text in data["texts"])
    assert len(hostile.encode()) - len(page._plotly().encode()) < 500_000


@pytest.mark.parametrize("value", [pages.HOSTILE.encode("utf-8", "replace").decode(), "", "é漢"])
def test_embedded_json_is_read_as_it_was(value):
    text = page.embedded({"a": [value, 1.5, None]})
    assert json.loads(text) == {"a": [value, 1.5, None]}
    assert not set("<>&\u2028\u2029") & set(text)


def test_items_keep_their_budget(monkeypatch):
    entries = pages.large_report(20, items=10, length=1000)
    assert page_data.items_per_case(entries) == 10
    monkeypatch.setattr(page_data, "ITEM_BUDGET", 50_000)
    assert page_data.items_per_case(entries) == 3
    cell = page_data.details(entries)["cells"][10]
    assert (len(cell["items"]), cell["itemsTotal"]) == (3, 10)
    monkeypatch.setattr(page_data, "ITEM_BUDGET", 10)
    assert page_data.items_per_case(entries) == 0


def test_trends_with_a_step_are_kept_first(monkeypatch):
    monkeypatch.setattr(page, "MOST_TRENDS", 1)
    entries = pages.small_report()[:2]
    first, second = pages.trends(entries)
    quiet = pages.series(first.candidate, first.metric, first.points)
    html = page.render(report_folder.report_rows(entries, trend_rows([quiet, second])))
    data = data_of(html)
    assert len(data["trends"]) == 1
    assert "trend" not in data["cells"][0]
    assert data["cells"][1]["trend"] == 0


def test_weights_of_the_profile_are_those_of_the_ranking():
    rows = report_folder.report_rows(pages.small_report())
    weights = {"task": 0.1, "size": 0.5, "speed": 0.4}
    html = page.render([*rows, {"group": "m", "weights": weights}])
    sliders = [attributes["value"] for tag, attributes in Elements(html).elements
               if tag == "input" and attributes["type"] == "range"]  # fmt: skip
    assert sliders == ["0.1", "0.5", "0.4"]


@pytest.mark.parametrize("weights", [(3.0, 1.0, 1.0), (0.33, 0.33, 0.34), (0.6, 0.2, 0.2)])
def test_a_slider_represents_the_weight_of_the_profile_exactly(weights):
    """A browser moves a value outside of the range, or between two steps, to the next allowed
    one."""
    rows = report_folder.report_rows(pages.small_report())
    row = {"group": "m", "weights": dict(zip(("task", "size", "speed"), weights, strict=True))}
    sliders = [attributes for tag, attributes in Elements(page.render([*rows, row])).elements
               if tag == "input" and attributes["type"] == "range"]  # fmt: skip
    assert [float(slider["value"]) for slider in sliders] == list(weights)
    for slider in sliders:
        assert slider["step"] == "any"
        assert float(slider["min"]) <= float(slider["value"]) <= float(slider["max"])
    assert {float(slider["max"]) for slider in sliders} == {max(1.0, *weights)}


def test_a_candidate_with_a_known_failure_is_not_named_as_the_best():
    entries = [
        *pages.candidate("good", 0.1),
        *pages.candidate("known", 0.05, passed=False, reason="accepted"),
    ]
    elements = Elements(page.render(report_folder.report_rows(entries)))
    assert "Highest score without a failed gate: good" in elements.text
    eligible = [attributes["data-eligible"] for tag, attributes in elements.elements
                if tag == "tr" and "data-eligible" in attributes]  # fmt: skip
    assert sorted(eligible) == ["false", "true"]


def test_a_run_that_did_not_start_has_a_page_that_says_so(tmp_path):
    report_folder.write(tmp_path, pages.small_report(), "")
    report_folder.write_not_started(tmp_path, "no <data>")
    html = (tmp_path / page.PAGE).read_text(encoding="utf-8")
    elements = Elements(html)
    assert "not run : the run did not start: no <data>" in elements.text
    assert not any(tag == "button" for tag, _ in elements.elements)
    assert len(html) < 100_000  # without Plotly


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"verdict": {"metric": 3}}, "not a verdict"),
        ({"verdict": "text"}, "not a verdict"),
        ({"group": "m", "row": "a", "passed": True, "verdict": {}}, "not a verdict"),
    ],
)
def test_a_damaged_row_is_refused(row, message):
    with pytest.raises(EvalError, match=message):
        page.render([row])


@pytest.mark.parametrize("row", [{"since": {}}, {"since": {"lines": 3}}, {"since": {"lines": [],
    "changes": [1]}}])  # fmt: skip
def test_a_damaged_comparison_is_refused(row):
    with pytest.raises(EvalError, match="cannot be shown"):
        page.render([row])


def test_comparisons_and_the_noise_floor_have_tables():
    change = {"candidate": "m-a", "metric": "flips", "before": None, "after": 0.5,
              "before_text": "", "after_text": "0.5%", "verdict": "✗ worse",
              "is_quiet": False}  # fmt: skip
    quiet = change | {"candidate": "m-b", "verdict": "≈ within noise", "is_quiet": True}
    rows = [
        {"since": {"lines": ["since a run"], "changes": [quiet, change]}},
        {"since": {"lines": ["since the reference"], "changes": []}},
        {"noise_floor": {"metric": "flips", "batch size": 0.00123456}},
        {"noise_floor": {"metric": "EM", "dtype": "not measured: <none>"}},
    ]
    text = Elements(page.render([*report_folder.report_rows(pages.small_report()), *rows])).text
    assert "since a run" in text
    assert "since the reference" in text
    assert text.index("m-a flips 0.5% ✗ worse") < text.index("1 gate without a change")
    assert text.index("1 gate without a change") < text.index("m-b flips 0.5% ≈ within noise")
    assert "flips 0.00123 EM not measured: <none>" in text


def test_unknown_fields_are_ignored_and_unknown_metrics_are_named():
    [row] = report_folder.report_rows(pages.small_report()[:1])
    [entry] = entries_of([row | {"later": 1, "verdict": row["verdict"] | {"later": 1}}])
    assert entry.verdict.metric == row["verdict"]["metric"]
    with pytest.raises(EvalError, match="metric other is not registered"):
        entries_of([row | {"verdict": row["verdict"] | {"metric": "other"}}])


@pytest.mark.parametrize("line", ["[1]", "{", "1", "\udcff".encode("utf-8", "surrogateescape")])
def test_a_damaged_file_is_refused(tmp_path, line):
    content = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "report.jsonl").write_bytes(content + b"\n")
    with pytest.raises(EvalError, match="line 1 is not"):
        read_report(tmp_path)
    with pytest.raises(EvalError, match="report"):
        read_report(tmp_path / "missing")


def test_the_command_makes_page_and_figures_again(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    entries = pages.small_report()
    trends = pages.trends(entries[:2])
    report_folder.write(tmp_path, entries, "", [{"notes": ["a note"]}, *trend_rows(trends)])
    written = (tmp_path / page.PAGE).read_text(encoding="utf-8")
    (tmp_path / page.PAGE).unlink()
    assert main([str(tmp_path), "--figures", str(tmp_path / "figures")]) == 0
    assert (tmp_path / page.PAGE).read_text(encoding="utf-8") == written
    assert len(data_of(written)["trends"]) == 2
    assert (tmp_path / "figures" / "size-quality.svg").exists()
    assert (tmp_path / "figures" / "trend-m-rtn-int8-js_divergence.svg").exists()
    assert str(tmp_path / "figures" / "size-quality.png") in capsys.readouterr().out
    assert main([str(tmp_path / "missing")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_trends_are_read_as_they_were_written():
    entries = pages.small_report()[:2]
    trends = pages.trends(entries, runs=4)
    trends[0] = replace(trends[0], breaks={1: "the data differ"}, profile="nightly")
    missing = replace(trends[0].points[0], value=math.nan, low=math.nan, high=math.inf)
    trends.append(pages.series("m-a", "flips", (missing,)))
    rows = json.dumps(report_folder.report_rows([], trend_rows(trends)), allow_nan=False)
    [*read, last] = trends_of(json.loads(rows))
    assert read == [replace(trend, steps=tuple(trend.steps)) for trend in trends[:-1]]
    assert math.isnan(last.points[0].value)


@pytest.mark.parametrize(
    "change",
    [
        {"points": 3},
        {"points": [{}]},
        {"steps": [{"point": 0}]},
        {"limit": "a"},
        {"points": []},
        {"breaks": {"999": "a"}},
    ],
    ids=str,
)
def test_a_damaged_trend_is_refused(change):
    [row] = report_folder.report_rows([], trend_rows(pages.trends(pages.small_report()[:1])))
    with pytest.raises(EvalError, match="not a trend"):
        page.render([{"trend": row["trend"] | change}])
    with pytest.raises(EvalError, match="metric other is not registered"):
        page.render([{"trend": row["trend"] | {"metric": "other"}}])


@pytest.mark.parametrize("weights", [{"task": 1.0}, {"task": "a", "size": 1, "speed": 1}, "text"])
def test_unusable_weights_are_refused(weights):
    with pytest.raises(EvalError, match="weights in a report"):
        page.render([{"group": "m", "weights": weights}])
