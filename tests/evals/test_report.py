import json
import math
from dataclasses import replace

import numpy as np
import pytest

from compression_gates.evals.data.items import DataSet, Prompt
from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.regressions import KEPT, regression, worst_items
from compression_gates.evals.metrics.result import NO_DATA, MetricResult
from compression_gates.evals.report import report, report_folder
from compression_gates.evals.statistics.estimate import NO_ESTIMATE, Estimate


def entry(row, metric, value, limit, half=0.0, passed=None, reason="", text=""):
    estimate = Estimate(value, value - half, value + half, 50, 50)
    verdict = verdict_of(f"m-{row}", Gate(metric, limit), MetricResult(estimate, 1.0, 2.0))
    passed = verdict.met if passed is None else passed
    facts = {"kl": 0.5}
    if metric == "compression_ratio" and row == "wanda-50":
        facts |= {"zeros": 4, "weights": 8, "layers": 2, "layers_2_4": 2, "layers_4_8": 2}
    form = "compressed-tensors pack-quantized" if row.startswith("rtn") else "plain"
    return report.Entry("m", row, verdict, passed, reason, form, text, facts)


ENTRIES = [
    entry("rtn-int8", "perplexity_drift", 0.001, 0.05),
    entry("rtn-int8", "compression_ratio", 3.5, 3.0),
    entry("wanda-50", "perplexity_drift", 0.08, 0.05, text="why <it> failed"),
    entry("wanda-50", "compression_ratio", 1.0, 0.99),
    entry("wanda-20", "perplexity_drift", 0.04, 0.05, half=0.02),
    entry("wanda-20", "compression_ratio", 1.0, 0.99),
    entry("wanda-2:4", "perplexity_drift", 0.2, 0.05, reason="2:4 | hurts", text="known"),
]


def test_a_row_per_candidate_and_a_column_per_metric():
    lines = report.tables(ENTRIES, "simple").splitlines()
    assert lines[0].split() == ["m", "perplexity", "size", "zeros"]
    assert lines[1].split() == ["≤", "+5.00%", "≥", "0.99x"]
    rows = {line.split()[0]: line for line in lines[3:]}
    assert rows["baseline"].split()[1:] == ["1.000", "0.00", "MiB"]
    assert rows["rtn-int8"].split()[1:] == ["+0.10%", "3.50x", "(≥", "3.00x)"]
    assert rows["wanda-50"].split()[1:] == ["✗", "+8.00%", "1.00x", "2:4", "50%"]
    assert rows["wanda-20"].split()[1:3] == ["≈", "+4.00%"]
    assert rows["wanda-2:4"].split()[1:3] == ["(✗)", "+20.00%"]


def test_the_form_of_each_candidate_is_named():
    packed, plain = ENTRIES[:2], ENTRIES[2:]
    assert report.forms(ENTRIES) == "compressed-tensors pack-quantized: rtn-int8; plain: all others"
    assert report.forms(packed) == "compressed-tensors pack-quantized: rtn-int8"
    assert report.forms(plain) == "plain"
    assert report.forms([replace(entry, form="") for entry in plain]) == ""


def test_markdown_tells_what_failed_and_what_was_known_to():
    text = report.markdown(ENTRIES, ["policy default"])
    assert text.index("## Failed") < text.index("why <it> failed") < text.index("## Known failures")
    assert "2:4 \\| hurts" in text
    assert "- policy default" in text
    assert "| wanda-50" in text


def test_json_lines_hold_every_number_and_no_infinity():
    entries = [
        *ENTRIES,
        entry("x", "f1_drop", math.nan, 0.1),
        entry("y", "f1_drop", 0.0, 0.1, math.inf),
    ]
    rows = [
        json.loads(line)
        for line in report_folder.json_lines(report_folder.report_rows(entries)).splitlines()
    ]
    assert len(rows) == len(entries)
    assert rows[2]["verdict"]["value"] == 0.08
    assert rows[2]["facts"] == {"kl": 0.5}
    assert rows[-2]["verdict"]["value"] is None
    assert rows[-1]["verdict"]["high"] is None


def cell(one, **options):
    return report.tables([one], "simple", **options).splitlines()[-1].removeprefix(one.row).strip()


@pytest.mark.parametrize(
    ("metric", "value", "limit", "text"),
    [
        ("compression_ratio", 0.98996, 0.99, "✗ 0.98996x"),
        ("compression_ratio", 0.987, 0.99, "✗ 0.987x"),
        ("speedup", 0.79920174, 0.8, "✗ 0.799x"),
        ("f1_drop", 0.02001, 0.02, "✗ -2.001"),
        ("f1_drop", 0.02, 0.02, "-2.00"),
        ("f1_drop", 0.1333, 0.02, "✗ -13.33"),
        ("f1_drop", -0.01, 0.02, "+1.00"),
    ],
)
def test_a_number_has_the_digits_that_tell_it_from_its_limit(metric, value, limit, text):
    assert cell(entry("x", metric, value, limit)) == text


def answers(value, worse, better, half=0.0, **fields):
    found = entry("x", "exact_match_drop", value, 0.02, half, **fields)
    return replace(found, facts={"worse": float(worse), "better": float(better)})


def test_counts_and_changes_have_the_same_sense():
    assert cell(answers(0.1333, 32, 0)) == "✗ -13.33 (-32 +0)"
    assert cell(answers(-0.01, 2, 5)) == "+1.00 (-2 +5)"
    head = report.tables([answers(0.1333, 32, 0)], "simple").splitlines()[1].strip()
    assert head == "≥ -2.00 pt"


def test_every_inconclusive_cell_is_marked_also_a_failing_one():
    assert cell(answers(0.01, 1, 0, half=0.02)) == "≈ -1.00 (-1 +0)"
    assert cell(answers(0.03, 1, 0, half=0.02)) == "✗≈ -3.00 (-1 +0)"
    assert cell(answers(0.03, 1, 0, half=0.02, reason="known")) == "(✗)≈ -3.00 (-1 +0)"
    assert cell(answers(0.01, 1, 0, half=0.02), intervals=True) == "≈ -1.00 (-1 +0) [-3.0 +1.0]"


def test_the_legend_explains_the_marks_that_are_used_and_no_others():
    plain, unsure = entry("x", "flips", 0.0, 0.1), entry("x", "flips", 0.09, 0.1, half=0.05)
    failed = entry("x", "flips", 0.2, 0.1)
    known = replace(failed, reason="known")
    loose = replace(unsure, verdict=replace(unsure.verdict, unreliable="too few documents"))
    marks = {"✗", "(✗)", "≈", "?", "(-a +b)", "[low high]"}

    def used(*entries, intervals=False):
        return [mark for line in report.legend(entries, intervals) for mark in marks
                if line.startswith(f"{mark} ")]  # fmt: skip

    assert used(plain) == []
    assert used(plain, failed) == ["✗"]
    assert used(known) == ["(✗)"]
    assert used(failed, known, unsure) == ["✗", "(✗)", "≈"]
    assert used(replace(unsure, passed=False)) == ["✗", "≈"]
    assert used(unsure, loose) == ["≈", "?"]
    assert used(answers(0.0, 0, 0)) == ["(-a +b)"]
    assert used(unsure, intervals=True) == ["≈", "[low high]"]
    assert used(plain, intervals=True) == []
    inside = "≈           inconclusive: the limit is inside the interval"
    assert report.legend([unsure]) == [inside]
    unproven = f"{inside}; ✗≈: not proven, which the strict policy requires"
    assert report.legend([replace(unsure, passed=False)])[1:] == [unproven]
    broken = entry("x", "flips", 0.11, 0.1, half=0.05)
    assert report.legend([broken])[1:] == [f"{inside}; ✗≈: the point estimate breaks the limit"]
    assert report.legend([loose])[0].startswith(
        "?           inconclusive: the interval is unreliable"
    )
    assert cell(loose) == "? 9.00%"


def test_a_metric_without_data_has_no_column():
    without = unjudged("x", "f1_drop", f"{NO_DATA}prompts")
    shown = report.tables([entry("x", "flips", 0.0, 0.1), without], "simple")
    assert "flips" in shown
    assert "F1" not in shown


def unjudged(row, metric, reason):
    verdict = verdict_of(
        f"m-{row}", Gate(metric, 0.8), MetricResult(NO_ESTIMATE, 0.0, 0.0, not_judged=reason)
    )
    return report.Entry("m", row, verdict, passed=True)


def test_what_was_not_judged_says_so_and_each_reason_stands_once():
    entries = [
        unjudged("rtn", "speedup", "no kernels"),
        unjudged("gptq", "speedup", "no kernels"),
        unjudged("gptq", "weighted_score", "no kernels"),
        unjudged("x", "f1_drop", "no data"),
    ]
    assert cell(entries[0]) == "not judged"
    assert cell(replace(entries[0], passed=False)) == "✗ not judged"
    assert report.not_judged([*ENTRIES, *entries]) == [
        "speed of rtn, gptq; score of gptq: no kernels",
        "F1 of x: no data",
    ]


@pytest.mark.parametrize("width", [80, 120, 160])
def test_tables_fit_the_terminal(width):
    entries = [
        replace(entry(f"wanda-{share}", metric, 0.5, 0.02, half=0.1), group="llama-tiny")
        for share in (20, 50)
        for metric in METRICS
    ]
    text = report.tables(entries, "simple", intervals=True, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("wanda-50") == text.count("llama-tiny") == text.count("\n\n") + 1
    assert "…" not in text
    whole = report.tables(entries, "github", intervals=True)
    assert whole.count("wanda-50") == 1


def worse(count, prompt="Who?\n```\n</details>\n<b>"):
    data = DataSet("d", tuple(Prompt(prompt, "a", i) for i in range(count)))
    worst = worst_items(np.ones(count), lambda i: regression(data, i, expected="a", candidate="b"))
    failed = replace(ENTRIES[2], text="it failed")
    return replace(failed, regressions=worst.items, regressions_omitted=worst.omitted)


def test_a_failing_case_shows_its_worst_items_whole_and_folded():
    text = report.markdown([worse(12)], [])
    assert "<details><summary>The worst 10 of 12 items that got worse</summary>" in text
    assert text.count("expected:  a\ncandidate: b") == 10
    assert text.count("\n</details>\n") == 10 + 1  # of which ten are inside a fence
    assert text.count("\n````text\nrow ") == 10
    assert "<summary>All 2 items that got worse</summary>" in report.markdown([worse(2)], [])
    assert "<details>" not in report.markdown(ENTRIES, [])


def test_json_has_all_items_that_got_worse_up_to_a_bound():
    rows = report_folder.report_rows([worse(KEPT + 5)])
    (row,) = map(json.loads, report_folder.json_lines(rows).splitlines())
    assert len(row["regressions"]) == KEPT
    assert row["regressions_omitted"] == 5
    first = row["regressions"][0]
    assert (first["row"], first["document"], first["expected"], first["candidate"]) == (
        1, 1, "a", "b",
    )  # fmt: skip
    nan = replace(worse(1), regressions=(replace(worse(1).regressions[0], loss=math.nan),))
    lines = report_folder.json_lines(report_folder.report_rows([nan]))
    assert json.loads(lines)["regressions"][0]["loss"] is None


def test_a_number_that_is_none_and_a_case_that_has_none_are_said():
    nan = entry("x", "f1_drop", math.nan, 0.1)
    assert "✗ not a number" in report.tables([nan], "simple")
    error = replace(nan, verdict=replace(nan.verdict, n=0))
    assert "✗ error" in report.tables([error], "simple")


def test_names_cannot_write_markdown():
    bad = replace(ENTRIES[2], row="<script>|", group="<b>", reason="[x](http://y)\n# head")
    text = report.markdown([bad], ["<i>", "`code` \x1b[31m"])
    for part in ("<script>", "<b>", "<i>", "[x](", "\n# head", " `code`", "\x1b"):
        assert part not in text


def test_written_whole_or_refused(tmp_path):
    report_folder.write(tmp_path / "new" / "r", ENTRIES, report.markdown(ENTRIES, ["note"]))
    assert sorted(p.name for p in (tmp_path / "new" / "r").iterdir()) == [
        "items.npz",
        "report.html",
        "report.jsonl",
        "report.md",
    ]
    (tmp_path / "file").touch()
    with pytest.raises(EvalError, match="report folder"):
        report_folder.write(tmp_path / "file", ENTRIES, "")


def test_intervals_stand_behind_their_numbers():
    text = report.tables(ENTRIES, "simple", intervals=True)
    assert "+4.00% [+2.00 +6.00%]" in text
    assert "[" not in report.tables(ENTRIES, "simple")


def test_a_run_that_did_not_start_leaves_nothing_of_an_earlier_report(tmp_path):
    report_folder.write(tmp_path / "report", ENTRIES, report.markdown(ENTRIES, ["kept in  x"]))
    report_folder.write_not_started(tmp_path / "report", "a.safetensors does not load\nb neither")
    text = (tmp_path / "report" / "report.md").read_text()
    assert text == "The run did not start: a.safetensors does not load\nb neither\n"
    _, line = (tmp_path / "report" / "report.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "error": "the run did not start: a.safetensors does not load\nb neither"
    }
    report_folder.write_not_started(tmp_path / "report", "it was killed", ending="finish")
    assert (
        tmp_path / "report" / "report.md"
    ).read_text() == "The run did not finish: it was killed\n"
