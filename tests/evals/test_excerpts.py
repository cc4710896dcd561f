"""Cutting of prompts from texts."""

import hypothesis.strategies as st
from hypothesis import given

from compression_gates.evals.data.excerpts import (
    MAX_CHARACTERS,
    MAX_CUTS,
    MIN_CHARACTERS,
    cut_prompts,
    excerpts,
)
from compression_gates.evals.data.items import DataSet, Prompt, ProtocolOverrides, Text

LINE = "The lantern of the old mill is kept in the tower by the river. " * 5


def texts(*documents: str) -> DataSet:
    return DataSet("d", tuple(Text(text, index) for index, text in enumerate(documents)))


def test_prompts_end_at_the_end_and_in_the_middle_of_a_document():
    text = "Mara Holt is a baker. She lives in Karsby."
    result = cut_prompts(texts(text, "Short one."))
    assert [item.prompt for item in result.items] == [
        text, "Mara Holt is a baker.", "Short one.", "Short",
    ]  # fmt: skip
    assert result.documents == [0, 0, 1, 1]


def test_many_documents_give_evenly_spread_prompts():
    result = cut_prompts(texts(*(f"document {index} ends" for index in range(100))), count=10)
    assert [item.prompt for item in result.items] == [f"document {10 * i} ends" for i in range(10)]


def test_text_is_split_at_blank_lines_then_lines_then_sentences():
    paragraph = f"{LINE.strip()}\n{LINE.strip()}"
    assert excerpts("\n\n".join([paragraph] * 3)) == [paragraph] * 3
    assert excerpts("\n".join([LINE.strip()] * 4)) == [LINE.strip()] * 4
    assert all(piece.endswith("river.") for piece in excerpts(LINE * 5))


def test_excerpts_of_a_single_document_count_as_documents():
    result = cut_prompts(texts("\n\n".join([LINE.strip()] * 5)))
    assert result.documents == [index for index in range(5) for _ in range(MAX_CUTS)]


def test_prompts_are_unchanged_and_keep_their_overrides():
    prompts = (Prompt("Where?\n\nHere" * 200, "x", 0), Prompt("Who?", "y", 1))
    result = cut_prompts(DataSet("d", prompts, ProtocolOverrides(chat=True)))
    assert [item.prompt for item in result.items] == [item.prompt for item in prompts]
    assert result.overrides == ProtocolOverrides(chat=True)
    assert [item.expected for item in result.items] == ["", ""]


@given(st.text(alphabet="ab .\n!", max_size=4000))
def test_excerpts_are_in_order_and_not_too_long(text):
    pieces = excerpts(text)
    assert all(len(piece) <= max(MAX_CHARACTERS, 2 * MIN_CHARACTERS) for piece in pieces)
    place = 0
    squeezed = "".join(text.split())
    for piece in pieces:
        place = squeezed.index("".join(piece.split()), place)


@given(st.lists(st.text(alphabet="ab .\n", min_size=1, max_size=600), min_size=1, max_size=30),
       st.integers(1, 40))  # fmt: skip
def test_number_of_prompts_is_limited_and_each_is_from_its_document(result, count):
    if not any(text.strip() for text in result):
        return
    data = texts(*result)
    prompts = cut_prompts(data, count).items
    assert 1 <= len(prompts) <= count
    for item in prompts:
        assert item.prompt.strip()
        if len(result) > 1:
            assert item.prompt in result[item.document]


PARAGRAPH = "Word word word word. "


@given(
    st.lists(
        st.sampled_from(
            ["= A =", "\n", "\n\n", "\n \n", PARAGRAPH * 20, PARAGRAPH * 60, "x" * 1500]
        ),
        max_size=8,
    )
)
def test_every_layout_is_split(parts):
    text = "".join(parts)
    pieces = excerpts(text)
    assert all(len(piece) <= MAX_CHARACTERS for piece in pieces)
    assert sum(map(len, pieces)) <= len(text)


def test_heading_before_a_long_paragraph():
    text = f"= A =\n\n{PARAGRAPH * 40}\n{PARAGRAPH * 30}"
    assert [piece[:5] for piece in excerpts(text)] == ["= A =", "Word "]
