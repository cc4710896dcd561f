import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.report.github import (
    MAX_ANNOTATIONS,
    MAX_SUMMARY_BYTES,
    annotations,
    step_summary,
)
from compression_gates.fixtures.suite.continuous_integration import ADVICE

FAILURES = [("m-wanda-50", "perplexity +8.00% (limit +5.00%)"), ("m-rtn", "a | b <script>")]


def test_the_summary_shows_the_result_and_the_failures_before_the_folded_report():
    text = step_summary("do not release: 2 gates failed", FAILURES, "# Gates\n\nall of it")
    lines = text.splitlines()
    assert lines[0] == "## Gates: do not release: 2 gates failed"
    assert lines[2] == "- **m-wanda-50**: perplexity +8.00% (limit +5.00%)"
    assert lines[3] == r"- **m-rtn**: a \| b &lt;script&gt;"
    folded = text[text.index("<details>") :]
    assert (
        folded
        == "<details><summary>Complete report</summary>\n\n# Gates\n\nall of it\n\n</details>\n"
    )


@pytest.mark.parametrize("count", [2, 20_000])
def test_a_summary_that_github_would_drop_is_shortened(count):
    failures = [(f"m-{i}", "ä" * 50) for i in range(count)]
    text = step_summary("do not release", failures, "x" * MAX_SUMMARY_BYTES)
    assert len(text.encode()) <= MAX_SUMMARY_BYTES
    assert text.splitlines()[-1] == (
        "The complete report is too large for this summary; keep it as files of the job."
    )
    text = step_summary("do not release", failures, "x" * MAX_SUMMARY_BYTES, ADVICE)
    assert text.splitlines()[-1].endswith("summary; `--report DIR` writes it to files.")
    assert "xxx" not in text
    assert "**m-1**" in text


def test_annotations_are_commands_with_escaped_titles_and_messages():
    assert annotations([("m: a,b 5%\n::error::x", "50% :: a, b\r\nc")]) == [
        r"::error title=m%3A a%2Cb 5%25\n%3A%3Aerror%3A%3Ax::50%25 :: a, b\r\nc"
    ]


def test_more_failures_than_github_shows_are_counted_in_the_last_annotation():
    lines = annotations([(f"m-{i}", "failed") for i in range(MAX_ANNOTATIONS + 5)])
    assert len(lines) == MAX_ANNOTATIONS
    assert lines[-1] == "::error title=gates::6 more failures are in the log"
    assert len(annotations([("m", "failed")] * MAX_ANNOTATIONS)) == MAX_ANNOTATIONS


@given(st.text(), st.text())
def test_an_annotation_is_one_line_that_contains_one_command(name, reason):
    (line,) = annotations([(name, reason)])
    assert len(line.splitlines()) == 1
    title, _, _ = line.removeprefix("::error title=").partition("::")
    assert not re.search("[:,]|%(?!25|3A|2C)", title)
