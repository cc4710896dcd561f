"""Answers that mean something else are not one answer, unless SQuAD's form is what is published."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.data.items import SQUAD, SYMBOLS, DataSet, Prompt, ProtocolOverrides
from compression_gates.evals.data.rows import Place
from compression_gates.evals.data.tables import Table, data_set
from compression_gates.evals.metrics.answer_scores import exact_match, f1, score_each
from compression_gates.evals.metrics.normal_forms import keeping_symbols, squad
from tests.evals.scores import scored

DIFFERENT = [
    ("-5", "5"),
    ("3.5", "35"),
    ("C++", "C"),
    ("C#", "C"),
    ("+5", "5"),
    ("5%", "5"),
    ("$5", "5"),
    ("1/2", "12"),
    ("10:30", "1030"),
    ("x^2", "x2"),
    ("5!", "5"),
    (".5", "5"),
    ("1e-3", "1e3"),
    ("a+b", "+b"),
    ("A", ""),
    ("Vitamin A", "Vitamin"),
    ("\u22125", "5"),
    ("[0, 1]", "(0, 1)"),
    ("a=b", "a==b"),
    ("?", ""),
]
SAME = [
    ("Paris.", "paris"),
    ("the  Old mill", "old mill"),
    ('"Paris"', "Paris"),
    ("**42**", "42"),
    ("`x`", "x"),
    ("(B)", "B"),
    ("B)", "b)"),
    ("1,000", "1000"),
    ("-5.", "-5"),
    ("\u22125", "-5"),
    ("3.5,", "3.5"),
    ("C++.", "c++"),
    ("an owl, a hat", "owl, hat"),
    ("Yes!", "yes"),
    ("'-3.5'.", "-3.5"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_symbols_are_of_the_answer(one, other):
    assert keeping_symbols(one) != keeping_symbols(other)
    assert exact_match(one, other, keeping_symbols) == 0.0
    assert f1(one, other, keeping_symbols) < 1.0


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_a_sentence_puts_around_a_word_is_not(one, other):
    assert keeping_symbols(one) == keeping_symbols(other)


@pytest.mark.parametrize(("one", "other"), [("-5", "5"), ("3.5", "35"), ("C++", "C"), ("A", "")])
def test_squads_form_is_as_published(one, other):
    assert squad(one) == squad(other)


@given(st.text())
def test_a_normal_form_is_its_own_and_empty_only_for_white_space(answer):
    found = keeping_symbols(answer)
    assert keeping_symbols(found) == found
    assert bool(found) == bool(answer.strip())


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_numbers_are_one_answer_only_where_they_are_one_number(one, other):
    assert (keeping_symbols(f"{one:,}.") == keeping_symbols(str(other))) == (one == other)


@pytest.mark.parametrize(
    ("columns", "extract", "form"),
    [
        ({"prompt": "q", "response": "a"}, None, SYMBOLS),
        ({"question": "q", "answers": "a"}, None, SYMBOLS),
        ({"question": "q", "answers": "a", "context": "c"}, None, SQUAD),
        ({"question": "q", "answers": "a", "context": "c"}, "(-5)", SYMBOLS),
        ({"document": "c", "summary": "a"}, None, SQUAD),
    ],
)
def test_only_questions_on_a_passage_are_in_squads_form(tmp_path, columns, extract, form):
    (tmp_path / "rows.csv").write_text("q,a,c\nWhat is 2 - 7?,-5,Two less seven is -5.\n")
    overrides = ProtocolOverrides(extract=extract)
    table = Table(Place(path=str(tmp_path / "rows.csv")), columns, overrides=overrides)
    assert data_set("d", table).normal_form == form


def test_the_form_of_the_data_set_is_what_answers_are_compared_in():
    side = scored([Prompt("2 - 7 =", "-5", 0)], continuations=["5"])
    assert score_each(exact_match, side) == 1.0
    data = DataSet("d", side.data.items, normal_form=SYMBOLS)
    assert score_each(exact_match, type(side)(data, side.measurement)) == 0.0
