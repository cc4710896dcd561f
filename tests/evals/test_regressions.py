"""Items that got worse: ranked, bounded, and inert wherever they are shown."""

import json
import math
import re
from dataclasses import asdict

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from compression_gates.evals.data.items import DataSet, Labelled, Prompt, Question
from compression_gates.evals.metrics.regressions import (
    KEPT,
    LONGEST_ANSWER,
    LONGEST_PROMPT,
    Regression,
    fenced,
    regression,
    worst_items,
)


def plain(index):
    return Regression(index + 1, index + 1, f"text {index}")


def test_the_largest_losses_come_first_and_nan_before_them():
    worst = worst_items([0.0, 0.5, -1.0, math.nan, 2.0, math.inf], plain)
    assert [item.row for item in worst.items] == [4, 6, 5, 2]
    assert [item.loss for item in worst.items[1:]] == [math.inf, 2.0, 0.5]
    assert math.isnan(worst.items[0].loss)
    assert (len(worst), worst.omitted) == (4, 0)


def test_at_most_so_many_are_kept_and_the_rest_is_counted():
    worst = worst_items(np.arange(KEPT + 8), plain)  # the first loses nothing
    assert (len(worst.items), worst.omitted, len(worst)) == (KEPT, 7, KEPT + 7)
    assert worst.items[0].row == KEPT + 8


def test_rows_and_documents_are_counted_from_one():
    items = tuple(Labelled(f"t{i}", 0, i // 2) for i in range(6))
    found = regression(DataSet("d", items), 4, baseline=0, candidate=1)
    assert (found.row, found.document, found.prompt) == (5, 3, "t4")
    assert found.line() == "row 5, document 3: 't4', baseline 0, candidate 1"


def test_the_line_shows_the_question_and_the_report_the_whole_prompt():
    prompt = "Rufus lives in Merrin.\n\nQuestion: Where does Rufus live?\nAnswer:"
    found = regression(DataSet("d", (Prompt(prompt, "Merrin", 0),)), 0, expected="Merrin",
                       baseline="Merrin", candidate="")  # fmt: skip
    assert found.line() == (
        "row 1: 'Question: Where does Rufus live?', expected 'Merrin', baseline 'Merrin', "
        "candidate ''"
    )
    assert prompt in found.markdown()
    asked = regression(DataSet("d", (Question("Who?", "A long story.", "x", 0),)), 0)
    assert asked.line() == "row 1: 'Who?'"
    assert "Who?\nA long story." in asked.markdown()


def test_long_texts_lose_their_middle():
    prompt = "START " + "x" * 10_000 + " END"
    data = DataSet("d", (Prompt(prompt, "a", 0),))
    found = regression(data, 0, candidate="y" * 3000)
    assert found.prompt.startswith("START")
    assert found.prompt.endswith("END")
    assert f"[... {len(prompt) - LONGEST_PROMPT:,} characters ...]" in found.prompt
    assert len(found.prompt) < LONGEST_PROMPT + 50
    assert len(found.candidate) < LONGEST_ANSWER + 50
    assert len(found.line()) < 250


LONG = "The lantern of the old mill is kept in the tower by the river. " * 30


@given(
    st.integers(0, 1500),
    st.sampled_from([LONG, "\N{ZERO WIDTH SPACE}\x1b" * 750, "'\"\\n" * 400]),
    st.sampled_from(["", " end", " tail" * 200]),
)
def test_long_answers_are_shown_around_their_first_difference(place, text, tail):
    data = DataSet("d", (Prompt("Q?", "a", 0),))
    same = text[:place]
    found = regression(data, 0, expected=f"{same}RIGHT{tail}", baseline=f"{same}FORMER{tail}",
                       candidate=f"{same}LATTER{tail}")  # fmt: skip
    assert len(found.line()) < 250
    for shown in (found.line(), found.markdown(), "\n".join(map(str, asdict(found).values()))):
        assert all(word in shown for word in ("RIGHT", "FORMER", "LATTER"))


def test_the_line_marks_omitted_text_on_both_sides():
    item = Regression(1, 1, "Q?", expected=f"{LONG[:200]}iron{LONG[:200]}", baseline=LONG,
                      candidate=LONG[:200])  # fmt: skip
    around = LONG[180:200]
    assert f"expected '...{around}iron" in item.line()
    assert f"baseline '...{around}{LONG[200:230]}" in item.line()
    assert item.line().endswith(f"candidate '...{around}'")
    assert item.line().count("...'") == 2


def test_the_end_of_a_text_that_ends_before_the_difference_is_shown():
    data = DataSet("d", (Prompt("Q?", "a", 0),))
    found = regression(data, 0, expected="y" * 700 + "END", baseline=LONG, candidate=LONG[:1500])
    assert found.expected == f"[... 203 characters ...] {'y' * 497}END"
    assert found.candidate == f"[... 1,250 characters ...] {LONG[1250:1500]}"
    assert found.line().endswith(f"candidate '...{LONG[1480:1500]}'")


def test_a_model_without_a_baseline_text_is_compared_with_the_expected_one():
    item = Regression(1, 1, "Q?", expected=f"{LONG}iron", candidate=f"{LONG}brass")
    assert item.line().endswith("brass'")
    assert "iron'" in item.line()


def test_records_are_plain_data():
    data = DataSet("d", (Labelled("t", 0, 0),))
    worst = worst_items(np.ones(1, np.float32), lambda i: regression(data, i, expected=1))
    assert json.loads(json.dumps(asdict(worst)))["items"][0]["loss"] == 1.0


FOREIGN = st.text(alphabet=st.sampled_from("`~ab <>|[]*\x1b\x07\r\u202e\ud800\n"), max_size=60)


@given(FOREIGN, FOREIGN)
def test_foreign_text_cannot_leave_its_fence_or_command_the_terminal(prompt, answer):
    item = Regression(1, 1, prompt, expected=answer)
    assert "\n" not in item.line()
    assert item.line().isprintable()
    lines = item.markdown().split("\n")
    fence = re.match("`+", lines[0])[0]
    assert lines[-1] == fence
    # A fence ends at the first line that is as many backticks or more.
    ends = re.compile(rf" {{0,3}}`{{{len(fence)},}} *")
    assert not any(map(ends.fullmatch, lines[1:-1]))
    assert all(char.isprintable() or char == "\n" for char in item.markdown())
    item.markdown().encode()


def test_a_fence_is_longer_than_any_run_of_backticks_inside():
    assert fenced("a ```` b").startswith("`````text\n")
    assert fenced("plain") == "```text\nplain\n```"
