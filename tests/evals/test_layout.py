"""Tables fit the terminal."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from compression_gates.evals.report.layout import (
    NARROWEST_CELL,
    NARROWEST_NAME,
    fit_table,
    shortened,
    wrapped_note,
)

HEADS = ["model", *(f"metric {i}\n≤ 0.0{i}" for i in range(8))]
ROWS = [[f"candidate-{row}", *(f"{row}.{i}" for i in range(8))] for row in range(4)]


@pytest.mark.parametrize("width", [40, 80, 120, 160])
def test_columns_wrap_into_blocks_that_repeat_the_names(width):
    text = fit_table(HEADS, ROWS, width)
    assert max(map(len, text.splitlines())) <= width
    blocks = text.split("\n\n")
    for block in blocks:
        for row in ROWS:
            assert sum(line.startswith(row[0]) for line in block.splitlines()) == 1
    for row in ROWS:
        assert all(cell in text.split() for cell in row)


def test_one_block_where_there_is_room():
    assert "\n\n" not in fit_table(HEADS, ROWS, 160)
    assert "\n\n" in fit_table(HEADS, ROWS, 80)
    assert "…" not in fit_table(HEADS, ROWS, 40)


def test_names_are_shortened_only_where_nothing_else_helps():
    long = [["x" * 30 + str(row) + "y" * 30, "1.00", "2.00"] for row in range(3)]
    assert "…" not in fit_table(["model", "a", "b"], long, 80)
    text = fit_table(["model", "a", "b"], long, 50)
    assert max(map(len, text.splitlines())) <= 50
    assert text.count("…") == 2 * 3


def test_long_cells_wrap_between_words():
    rows = [["defect", "what went wrong, in a sentence that is longer than the terminal is wide"]]
    text = fit_table(["name", "what"], rows, 50, align="left")
    assert max(map(len, text.splitlines())) <= 50
    assert "…" not in text


@given(
    st.lists(st.text("abc/-", min_size=1, max_size=60), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(NARROWEST_NAME + NARROWEST_CELL + 4, 200),
)
def test_no_line_is_longer_than_the_terminal(names, columns, width):
    rows = [[name, *("✗≈ -51.25 (-246 +0)" for _ in range(columns))] for name in names]
    heads = ["baseline", *("exact match\n≥ -2.00 pt" for _ in range(columns))]
    assert max(map(len, fit_table(heads, rows, width).splitlines())) <= width


@given(st.lists(st.text("ab/", max_size=40), max_size=5), st.integers(NARROWEST_NAME, 40))
def test_shortened_names_keep_their_ends(names, length):
    for name, short in zip(names, shortened(names, length), strict=True):
        assert len(short) <= length
        head, _, tail = short.partition("…")
        assert name.startswith(head)
        assert name.endswith(tail)
        assert (short == name) == (len(name) <= length)


def test_shortened_names_are_told_apart_by_their_ends_or_beginnings():
    runs = [f"/very/long/path/of/a/project/run-{run}/checkpoints/model-final" for run in "ab"]
    assert len(set(shortened(runs, 40))) == 2
    heads = [f"{run}/very/long/path/of/a/project/checkpoints/model-final" for run in "ab"]
    assert len(set(shortened(heads, 20))) == 2


def test_a_note_is_wrapped_between_words_with_an_indent():
    note = "policy      the point estimate decides; inconclusive cases are marked"
    assert wrapped_note(note, 40, 12).splitlines() == [
        "policy      the point estimate decides;",
        "            inconclusive cases are",
        "            marked",
    ]
    assert wrapped_note(f"store       {'x' * 60}", 40, 12).splitlines()[-1].strip() == "x" * 60
    assert wrapped_note("short", 40, 12) == "short"


@given(st.lists(st.text("ab", min_size=1, max_size=40), max_size=30), st.integers(6, 12))
def test_different_names_stay_different(names, length):
    short = shortened(names, length)
    assert len(set(short)) == len(set(names))
    assert all(len(text) <= length for text in short)
    assert len(set(zip(names, short, strict=True))) == len(set(names))
