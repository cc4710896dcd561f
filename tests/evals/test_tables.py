"""Items, prompts and answers from the columns of a table."""

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
    data = data_set("d", table(tmp_path, SQUAD, COLUMNS), extractive=True)
    assert data.items == (
        Question("Who?", "Ann met Bo.", "Ann", 0, ("Ann met",)),
        Question("Whom?", "Ann met Bo.", "Bo", 0),
        Question("Where?", "In Oslo.", "", 1),
    )


def test_prompts_from_roles_and_solved_shots(tmp_path):
    data = data_set("d", table(tmp_path, SQUAD, COLUMNS, shots=1))
    shot = "Ann met Bo.\n\nQuestion: Who?\nAnswer: Ann\n\n"
    assert data.items[0] == Prompt(shot + "Ann met Bo.\n\nQuestion: Whom?\nAnswer:", "Bo", 0)
    assert len(data.items) == 2


def test_first_template_whose_roles_have_text_is_used(tmp_path):
    rows = [{"i": "Add.", "x": "1 2", "o": "3"}, {"i": "Sing.", "x": "", "o": "la"}]
    columns = {"prompt": "i", "context": "x", "response": "o"}
    data = data_set("d", table(tmp_path, rows, columns, prompt=("{prompt}|{context}", "{prompt}!")))
    assert [item.prompt for item in data.items] == ["Add.|1 2", "Sing.!"]
    with pytest.raises(EvalError, match=r"row 2: no text for the roles of .*\|"):
        data_set("d", table(tmp_path, rows, columns, prompt=("{prompt}|{context}",)))


def test_nested_column(tmp_path):
    rows = [{"q": "Who?", "a": {"text": ["Ann"]}}]
    data = data_set("d", table(tmp_path, rows, {"question": "q", "answers": "a.text"}))
    assert data.items[0].expected == "Ann"


def test_texts_are_joined_with_empty_ones_or_separate_without_them(tmp_path):
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
    data = data_set("d", table(tmp_path, rows, {"text": "t", "label": "y"}, classes=classes))
    assert data.items == (Labelled("x", expected, 0),)


@pytest.mark.parametrize("label", [-1, 1.0, True, None, "good", [0]])
def test_invalid_label(tmp_path, label):
    rows = [{"t": "x", "y": 0}, {"t": "x", "y": label}]
    with pytest.raises(EvalError, match=r"row 2: label .* is not a class"):
        data_set("d", table(tmp_path, rows, {"text": "t", "label": "y"}))


def test_label_that_is_not_a_class(tmp_path):
    rows = [{"t": "x", "y": "fine"}]
    with pytest.raises(EvalError, match="row 1: label 'fine' is not one of bad, good"):
        data_set("d", table(tmp_path, rows, {"text": "t", "label": "y"}, classes=("bad", "good")))


def test_error_for_missing_column_lists_the_columns(tmp_path):
    broken = table(tmp_path, [{"sentence": "x"}], {"text": "txt"})
    with pytest.raises(EvalError, match="there is no column 'txt'; the columns are sentence"):
        data_set("d", broken)
    with pytest.raises(EvalError, match="there is no column 'txt'; the columns are sentence"):
        first_row(broken)


def test_column_without_text(tmp_path):
    with pytest.raises(EvalError, match="row 1: column 't' contains int, not text"):
        data_set("d", table(tmp_path, [{"t": 3}], {"text": "t"}))
    with pytest.raises(EvalError, match="column 'a' contains neither text nor a list of texts"):
        data_set("d", table(tmp_path, [{"q": "?", "a": 3}], {"question": "q", "answers": "a"}))


def test_columns_without_a_shape():
    with pytest.raises(EvalError, match="columns question make no data set; give text and label"):
        Table(Place(path="x"), {"question": "q"}).shape  # noqa: B018


def test_no_item_left(tmp_path):
    rows = [{"t": "x"}, {"t": " "}]
    with pytest.raises(EvalError, match="leaves no item"):
        data_set("d", table(tmp_path, rows, {"text": "t"}, skip=1))


@given(st.integers(1, 12), st.integers(0, 6), st.integers(0, 4), st.integers(0, 99))
def test_shots_and_skipped_rows_are_not_items(count, skip, shots, seed):
    import tempfile
    from pathlib import Path

    rows = [{"p": f"p{i}", "r": f"r{i}"} for i in range(24)]
    columns = {"prompt": "p", "response": "r"}
    with tempfile.TemporaryDirectory() as folder:
        source = table(Path(folder), rows, columns, count=count, skip=skip, shots=shots, seed=seed)
        items = data_set("d", source).items
        assert items == data_set("d", source).items
    prompts = [item.prompt.split("\n\n")[-1] for item in items]
    shown = set(items[0].prompt.split("\n\n")[:-1])
    assert len(prompts) == len(set(prompts)) == count
    assert len(shown) == shots
    assert not {f"p{i}" for i in range(skip)} & {*prompts, *(s.split(" ")[0] for s in shown)}
    assert not {s.split(" ")[0] for s in shown} & set(prompts)


@pytest.mark.parametrize("template", ["{answer}", "{}", "{question", "{0}"])
def test_invalid_template(template):
    with pytest.raises(EvalError, match="prompt"):
        check_prompt(template)


def test_last_match_of_extract_is_used():
    assert extracted("#### 1 then #### 2", r"#### (\d)") == "2"
    assert extracted("none", r"#### (\d)") == ""
    assert extracted("as it is", "") == "as it is"


def test_error_if_extract_does_not_match_an_expected_answer(tmp_path):
    rows = [{"q": "1 + 1?", "a": "so #### 2"}, {"q": "1 + 2?", "a": "3"}]
    overrides = ProtocolOverrides(extract=r"#### (\d+)")
    source = table(tmp_path, rows, {"question": "q", "answers": "a"}, overrides=overrides)
    with pytest.raises(EvalError, match="row 2: extract matches nothing in the answer '3'"):
        data_set("d", source)


def test_rows_after_the_last_item_are_not_read(tmp_path):
    rows = [{"t": " "}, {"t": "a"}, {"t": ""}, {"t": "b"}]
    source = table(tmp_path, rows, {"text": "t"}, count=2)
    with (tmp_path / "rows.jsonl").open("a") as stream:
        stream.write("\nnonsense")
    assert [item.text for item in data_set("d", source).items] == ["a", "b"]


def documents(tmp_path, rows, columns, **settings):
    return data_set("d", table(tmp_path, rows, columns, **settings)).documents


class TestDocuments:
    ROWS = tuple(
        {"p": f"prompt {i}", "r": "x", "title": f"t{i // 3}", "passage": f"p{i // 2}"}
        for i in range(6)
    )

    def test_cluster_column(self, tmp_path):
        columns = {"prompt": "p", "response": "r", "cluster": "title"}
        assert documents(tmp_path, self.ROWS, columns) == [0, 0, 0, 1, 1, 1]

    def test_column_with_repeated_passages(self, tmp_path):
        columns = {"prompt": "p", "response": "r"}
        assert documents(tmp_path, self.ROWS, columns) == [0, 0, 1, 1, 2, 2]
        rows = [{**row, "passage": f"p{i}"} for i, row in enumerate(self.ROWS)]
        assert documents(tmp_path, rows, columns) == list(range(6))

    def test_repeated_texts(self, tmp_path):
        rows = [{"t": text, "y": 0} for text in ("a", "b", "a")]
        assert documents(tmp_path, rows, {"text": "t", "label": "y"}) == [0, 1, 0]
        assert documents(tmp_path, rows, {"text": "t"}) == [0, 1, 0]

    def test_passage_inside_prompts(self, tmp_path):
        passage = "Ann met Bo by the river, and both of them went to the mill to buy flour. " * 2
        rows = [{"p": f"{passage}{i // 2}\nWho? {i}", "r": "x"} for i in range(4)]
        assert documents(tmp_path, rows, {"prompt": "p", "response": "r"}) == [0, 0, 1, 1]

    def test_missing_cluster_column(self, tmp_path):
        broken = table(tmp_path, self.ROWS, {"prompt": "p", "response": "r", "cluster": "page"})
        with pytest.raises(EvalError, match="cluster: there is no column 'page'"):
            first_row(broken)


def test_context_is_appended_unless_the_prompt_contains_it(tmp_path):
    rows = [
        {"p": "Who?", "c": "Ann met Bo.", "r": "Ann"},
        {"p": "Ann met Bo. Who?", "c": "Ann met Bo.", "r": "Ann"},
        {"p": "Sing.", "c": "", "r": "la"},
    ]
    columns = {"prompt": "p", "context": "c", "response": "r"}
    data = data_set("d", table(tmp_path, rows, columns))
    assert [item.prompt for item in data.items] == [
        "Who?\n\nAnn met Bo.", "Ann met Bo. Who?", "Sing.",
    ]  # fmt: skip


def test_prompts_without_responses(tmp_path):
    data = data_set("d", table(tmp_path, [{"p": "Who?"}, {"p": "Where?"}], {"prompt": "p"}))
    assert data.items == (Prompt("Who?", "", 0), Prompt("Where?", "", 1))


def test_answers_as_a_list_of_objects(tmp_path):
    rows = [{"q": "Who?", "a": [{"text": "Ann", "answer_start": 0}, {"text": "Bo"}]}]
    (item,) = data_set("d", table(tmp_path, rows, {"question": "q", "answers": "a"})).items
    assert (item.expected, item.accepted) == ("Ann", ("Bo",))
