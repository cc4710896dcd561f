"""Columns become items, prompts and answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.data.items import Labelled, Prompt, ProtocolOverrides, Question, Text
from compression_gates.evals.data.rows import Place
from compression_gates.evals.data.tables import Table, check_prompt, data_set, extracted, first_row
from compression_gates.evals.errors import EvalError

SQUAD = [
    {
        "q": "Who?",
        "c": "Ann met Bo.",
        "a": {"text": ["Ann", "Ann met", "Ann"], "answer_start": [0]},
    },
    {"q": "Whom?", "c": "Ann met Bo.", "a": {"text": ["Bo"], "answer_start": [8]}},
    {"q": "Where?", "c": "In Oslo.", "a": {"text": [], "answer_start": []}},
]
COLUMNS = {"question": "q", "context": "c", "answers": "a"}


def table(tmp_path, rows, columns, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return Table(Place(path=str(path)), columns, **settings)


def test_questions_of_one_context_share_a_document(tmp_path):
    found = data_set("d", table(tmp_path, SQUAD, COLUMNS), extractive=True)
    assert found.items == (
        Question("Who?", "Ann met Bo.", "Ann", 0, ("Ann met",)),
        Question("Whom?", "Ann met Bo.", "Bo", 0),
        Question("Where?", "In Oslo.", "", 1),
    )


def test_prompts_are_made_of_roles_and_solved_shots(tmp_path):
    found = data_set("d", table(tmp_path, SQUAD, COLUMNS, shots=1))
    shot = "Ann met Bo.\n\nQuestion: Who?\nAnswer: Ann\n\n"
    assert found.items[0] == Prompt(shot + "Ann met Bo.\n\nQuestion: Whom?\nAnswer:", "Bo", 0)
    assert len(found.items) == 2


def test_the_first_prompt_whose_roles_are_filled(tmp_path):
    rows = [{"i": "Add.", "x": "1 2", "o": "3"}, {"i": "Sing.", "x": "", "o": "la"}]
    columns = {"prompt": "i", "context": "x", "response": "o"}
    found = data_set(
        "d", table(tmp_path, rows, columns, prompt=("{prompt}|{context}", "{prompt}!"))
    )
    assert [item.prompt for item in found.items] == ["Add.|1 2", "Sing.!"]
    with pytest.raises(EvalError, match=r"row 2 lacks text for the prompt '\{prompt\}\|"):
        data_set("d", table(tmp_path, rows, columns, prompt=("{prompt}|{context}",)))


def test_a_column_inside_another(tmp_path):
    rows = [{"q": "Who?", "a": {"text": ["Ann"]}}]
    found = data_set("d", table(tmp_path, rows, {"question": "q", "answers": "a.text"}))
    assert found.items[0].expected == "Ann"


def test_texts_are_joined_empty_ones_too_or_stand_alone_without_them(tmp_path):
    rows = [{"t": " = A = "}, {"t": ""}, {"t": "b"}]
    joined = data_set("d", table(tmp_path, rows, {"text": "t"}, join="\n\n"))
    assert joined.items == (Text(" = A = \n\n\n\nb", 0),)
    alone = data_set("d", table(tmp_path, rows, {"text": "t"}))
    assert alone.items == (Text(" = A = ", 0), Text("b", 1))


@pytest.mark.parametrize(
    ("label", "classes", "expected"), [(1, (), 1), ("1", (), 1), ("good", ("bad", "good"), 1)]
)
def test_labels_are_numbers_or_names(tmp_path, label, classes, expected):
    rows = [{"t": "x", "y": label}]
    found = data_set("d", table(tmp_path, rows, {"text": "t", "label": "y"}, classes=classes))
    assert found.items == (Labelled("x", expected, 0),)


@pytest.mark.parametrize("label", [-1, 1.0, True, None, "good", [0]])
def test_what_is_no_label(tmp_path, label):
    rows = [{"t": "x", "y": 0}, {"t": "x", "y": label}]
    with pytest.raises(EvalError, match=r"row 2: label .* is not a class"):
        data_set("d", table(tmp_path, rows, {"text": "t", "label": "y"}))


def test_a_name_that_is_none_of_the_classes(tmp_path):
    rows = [{"t": "x", "y": "fine"}]
    with pytest.raises(EvalError, match="row 1: label 'fine' is not one of bad, good"):
        data_set("d", table(tmp_path, rows, {"text": "t", "label": "y"}, classes=("bad", "good")))


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path):
    found = table(tmp_path, [{"sentence": "x"}], {"text": "txt"})
    with pytest.raises(EvalError, match="there is no column 'txt'; the columns are sentence"):
        data_set("d", found)
    with pytest.raises(EvalError, match="there is no column 'txt'; the columns are sentence"):
        first_row(found)


def test_text_that_is_no_text(tmp_path):
    with pytest.raises(EvalError, match="row 1: column 't' contains int, not text"):
        data_set("d", table(tmp_path, [{"t": 3}], {"text": "t"}))
    with pytest.raises(EvalError, match="column 'a' contains neither text nor a list of texts"):
        data_set("d", table(tmp_path, [{"q": "?", "a": 3}], {"question": "q", "answers": "a"}))


def test_columns_that_make_nothing():
    with pytest.raises(EvalError, match="columns question make no data set; give text and label"):
        Table(Place(path="x"), {"question": "q"}).shape  # noqa: B018


def test_nothing_left(tmp_path):
    rows = [{"t": "x"}, {"t": " "}]
    with pytest.raises(EvalError, match="leaves no item"):
        data_set("d", table(tmp_path, rows, {"text": "t"}, skip=1))


@given(st.integers(1, 12), st.integers(0, 6), st.integers(0, 4), st.integers(0, 99))
def test_shots_and_skipped_rows_are_never_asked(count, skip, shots, seed):
    import tempfile
    from pathlib import Path

    rows = [{"p": f"p{i}", "r": f"r{i}"} for i in range(24)]
    columns = {"prompt": "p", "response": "r"}
    with tempfile.TemporaryDirectory() as folder:
        made = table(Path(folder), rows, columns, count=count, skip=skip, shots=shots, seed=seed)
        items = data_set("d", made).items
        assert items == data_set("d", made).items
    asked = [item.prompt.split("\n\n")[-1] for item in items]
    shown = set(items[0].prompt.split("\n\n")[:-1])
    assert len(asked) == len(set(asked)) == count
    assert len(shown) == shots
    assert not {f"p{i}" for i in range(skip)} & {*asked, *(s.split(" ")[0] for s in shown)}
    assert not {s.split(" ")[0] for s in shown} & set(asked)


@pytest.mark.parametrize("template", ["{answer}", "{}", "{question", "{0}"])
def test_prompts_that_cannot_be_filled(template):
    with pytest.raises(EvalError, match="prompt"):
        check_prompt(template)


def test_the_last_match_is_what_counts():
    assert extracted("#### 1 then #### 2", r"#### (\d)") == "2"
    assert extracted("none", r"#### (\d)") == ""
    assert extracted("as it is", "") == "as it is"


def test_an_expected_answer_that_extract_finds_nothing_in_is_an_error(tmp_path):
    rows = [{"q": "1 + 1?", "a": "so #### 2"}, {"q": "1 + 2?", "a": "3"}]
    overrides = ProtocolOverrides(extract=r"#### (\d+)")
    made = table(tmp_path, rows, {"question": "q", "answers": "a"}, overrides=overrides)
    with pytest.raises(EvalError, match="row 2: extract matches nothing in the answer '3'"):
        data_set("d", made)


def test_no_more_rows_are_read_than_it_takes(tmp_path):
    made = table(tmp_path, [{"t": " "}, {"t": "a"}, {"t": ""}, {"t": "b"}], {"text": "t"}, count=2)
    with (tmp_path / "rows.jsonl").open("a") as stream:
        stream.write("\nnonsense")
    assert [item.text for item in data_set("d", made).items] == ["a", "b"]


def documents(tmp_path, rows, columns, **settings):
    return data_set("d", table(tmp_path, rows, columns, **settings)).documents


class TestDocuments:
    ROWS = tuple(
        {"p": f"prompt {i}", "r": "x", "title": f"t{i // 3}", "passage": f"p{i // 2}"}
        for i in range(6)
    )

    def test_the_column_that_says_which(self, tmp_path):
        columns = {"prompt": "p", "response": "r", "cluster": "title"}
        assert documents(tmp_path, self.ROWS, columns) == [0, 0, 0, 1, 1, 1]

    def test_a_passage_that_recurs(self, tmp_path):
        columns = {"prompt": "p", "response": "r"}
        assert documents(tmp_path, self.ROWS, columns) == [0, 0, 1, 1, 2, 2]
        rows = [{**row, "passage": f"p{i}"} for i, row in enumerate(self.ROWS)]
        assert documents(tmp_path, rows, columns) == list(range(6))

    def test_a_text_that_recurs(self, tmp_path):
        rows = [{"t": text, "y": 0} for text in ("a", "b", "a")]
        assert documents(tmp_path, rows, {"text": "t", "label": "y"}) == [0, 1, 0]
        assert documents(tmp_path, rows, {"text": "t"}) == [0, 1, 0]

    def test_a_passage_inside_the_prompts(self, tmp_path):
        passage = "Ann met Bo by the river, and both of them went to the mill to buy flour. " * 2
        rows = [{"p": f"{passage}{i // 2}\nWho? {i}", "r": "x"} for i in range(4)]
        assert documents(tmp_path, rows, {"prompt": "p", "response": "r"}) == [0, 0, 1, 1]

    def test_a_cluster_column_that_is_not_there(self, tmp_path):
        found = table(tmp_path, self.ROWS, {"prompt": "p", "response": "r", "cluster": "page"})
        with pytest.raises(EvalError, match="cluster: there is no column 'page'"):
            first_row(found)


def test_a_prompt_is_put_with_what_it_is_about_unless_it_holds_it(tmp_path):
    rows = [
        {"p": "Who?", "c": "Ann met Bo.", "r": "Ann"},
        {"p": "Ann met Bo. Who?", "c": "Ann met Bo.", "r": "Ann"},
        {"p": "Sing.", "c": "", "r": "la"},
    ]
    columns = {"prompt": "p", "context": "c", "response": "r"}
    found = data_set("d", table(tmp_path, rows, columns))
    assert [item.prompt for item in found.items] == [
        "Who?\n\nAnn met Bo.", "Ann met Bo. Who?", "Sing.",
    ]  # fmt: skip


def test_prompts_without_responses(tmp_path):
    found = data_set("d", table(tmp_path, [{"p": "Who?"}, {"p": "Where?"}], {"prompt": "p"}))
    assert found.items == (Prompt("Who?", "", 0), Prompt("Where?", "", 1))


def test_answers_as_a_list_of_tables(tmp_path):
    rows = [{"q": "Who?", "a": [{"text": "Ann", "answer_start": 0}, {"text": "Bo"}]}]
    (item,) = data_set("d", table(tmp_path, rows, {"question": "q", "answers": "a"})).items
    assert (item.expected, item.accepted) == ("Ann", ("Bo",))
