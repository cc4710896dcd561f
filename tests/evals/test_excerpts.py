"""Prompts that are cut from texts."""

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


def texts(*found: str) -> DataSet:
    return DataSet("d", tuple(Text(text, index) for index, text in enumerate(found)))


def test_a_document_is_continued_at_its_end_and_in_its_middle():
    text = "Mara Holt is a baker. She lives in Karsby."
    found = cut_prompts(texts(text, "Short one."))
    assert [item.prompt for item in found.items] == [
        text, "Mara Holt is a baker.", "Short one.", "Short",
    ]  # fmt: skip
    assert found.documents == [0, 0, 1, 1]


def test_many_documents_are_spread_over_and_continued_once():
    found = cut_prompts(texts(*(f"document {index} ends" for index in range(100))), count=10)
    assert [item.prompt for item in found.items] == [f"document {10 * i} ends" for i in range(10)]


def test_a_text_is_taken_apart_at_blank_lines_before_lines_before_sentences():
    paragraph = f"{LINE.strip()}\n{LINE.strip()}"
    assert excerpts("\n\n".join([paragraph] * 3)) == [paragraph] * 3
    assert excerpts("\n".join([LINE.strip()] * 4)) == [LINE.strip()] * 4
    assert all(piece.endswith("river.") for piece in excerpts(LINE * 5))


def test_excerpts_of_a_single_document_are_documents_of_their_own():
    found = cut_prompts(texts("\n\n".join([LINE.strip()] * 5)))
    assert found.documents == [index for index in range(5) for _ in range(MAX_CUTS)]


def test_prompts_stay_whole_and_keep_their_protocol():
    prompts = (Prompt("Where?\n\nHere" * 200, "x", 0), Prompt("Who?", "y", 1))
    found = cut_prompts(DataSet("d", prompts, ProtocolOverrides(chat=True)))
    assert [item.prompt for item in found.items] == [item.prompt for item in prompts]
    assert found.overrides == ProtocolOverrides(chat=True)
    assert [item.expected for item in found.items] == ["", ""]


@given(st.text(alphabet="ab .\n!", max_size=4000))
def test_excerpts_are_pieces_in_order_none_too_long(text):
    pieces = excerpts(text)
    assert all(len(piece) <= max(MAX_CHARACTERS, 2 * MIN_CHARACTERS) for piece in pieces)
    place = 0
    squeezed = "".join(text.split())
    for piece in pieces:
        place = squeezed.index("".join(piece.split()), place)


@given(st.lists(st.text(alphabet="ab .\n", min_size=1, max_size=600), min_size=1, max_size=30),
       st.integers(1, 40))  # fmt: skip
def test_no_more_prompts_than_asked_for_and_each_from_its_document(found, most):
    if not any(text.strip() for text in found):
        return
    data = texts(*found)
    prompts = cut_prompts(data, most).items
    assert 1 <= len(prompts) <= most
    for item in prompts:
        assert item.prompt.strip()
        if len(found) > 1:
            assert item.prompt in found[item.document]


PARAGRAPH = "Word word word word. "


@given(
    st.lists(
        st.sampled_from(
            ["= A =", "\n", "\n\n", "\n \n", PARAGRAPH * 20, PARAGRAPH * 60, "x" * 1500]
        ),
        max_size=8,
    )
)
def test_every_layout_is_taken_apart(parts):
    text = "".join(parts)
    pieces = excerpts(text)
    assert all(len(piece) <= MAX_CHARACTERS for piece in pieces)
    assert sum(map(len, pieces)) <= len(text)


def test_a_heading_before_paragraphs_without_a_blank_line():
    text = f"= A =\n\n{PARAGRAPH * 40}\n{PARAGRAPH * 30}"
    assert [piece[:5] for piece in excerpts(text)] == ["= A =", "Word "]
