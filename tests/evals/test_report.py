import json
import math
from dataclasses import replace

import pytest

from evals import report
from evals.errors import EvalError
from evals.estimate import Estimate
from evals.gate import METRICS, Gate, judge
from evals.reading import Reading


def entry(row, metric, value, limit, half=0.0, passed=None, reason="", text=""):
    estimate = Estimate(value, value - half, value + half, 50, 50)
    verdict = judge(f"m-{row}", Gate(metric, limit), Reading(estimate, 1.0, 2.0))
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
    assert lines[1].split() == ["≤", "5.00%", "≥", "0.99x"]
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
    rows = [json.loads(line) for line in report.json_lines(entries).splitlines()]
    assert len(rows) == len(entries)
    assert rows[2]["verdict"]["value"] == 0.08
    assert rows[2]["facts"] == {"kl": 0.5}
    assert rows[-2]["verdict"]["value"] is None
    assert rows[-1]["verdict"]["high"] is None


def test_a_failure_never_reads_as_if_it_kept_its_limit():
    row = entry("x", "compression_ratio", 0.98996, 0.99)
    assert "0.98996" in report.tables([row], "simple")


def test_a_number_that_is_none_and_a_case_that_has_none_are_said():
    nan = entry("x", "f1_drop", math.nan, 0.1)
    assert "✗ not a number" in report.tables([nan], "simple")
    error = replace(nan, verdict=replace(nan.verdict, n=0))
    assert "✗ error" in report.tables([error], "simple")


def test_names_cannot_write_markdown():
    bad = replace(ENTRIES[0], row="<script>|", group="<b>")
    text = report.markdown([bad], ["<i>"])
    assert "<script>" not in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_written_whole_or_refused(tmp_path):
    report.write(tmp_path / "new" / "r", ENTRIES, ["note"])
    assert sorted(p.name for p in (tmp_path / "new" / "r").iterdir()) == [
        "items.npz",
        "report.jsonl",
        "report.md",
    ]
    (tmp_path / "file").touch()
    with pytest.raises(EvalError, match="--report"):
        report.write(tmp_path / "file", ENTRIES, [])


def test_intervals_stand_behind_their_numbers():
    text = report.tables(ENTRIES, "simple", intervals=True)
    verdict = next(e.verdict for e in ENTRIES if e.verdict.low < e.verdict.high)
    shown = METRICS[verdict.metric].show(verdict.low).replace(" nats", "").replace(" pt", "")
    assert f"[{shown} " in text
    assert "[" not in report.tables(ENTRIES, "simple")
