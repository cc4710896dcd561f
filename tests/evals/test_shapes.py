"""Recognition of shapes by the names of columns."""

import pytest

from compression_gates.evals.data.shapes import (
    BARE,
    LABELLED,
    PROMPT,
    QUESTION,
    SUMMARY,
    TEXT,
    columns_of,
    recognised,
)
from compression_gates.evals.errors import EvalError


@pytest.mark.parametrize(
    ("names", "shape", "columns"),
    [
        (["idx", "sentence", "label"], LABELLED, {"text": "sentence", "label": "label"}),
        (["review", "Labels"], LABELLED, {"text": "review", "label": "Labels"}),
        (
            ["id", "title", "context", "question", "answers"], QUESTION,
            {"question": "question", "context": "context", "answers": "answers"},
        ),
        (
            ["passage", "question", "answer"], QUESTION,
            {"question": "question", "context": "passage", "answers": "answer"},
        ),
        (["question", "answer"], QUESTION, {"question": "question", "answers": "answer"}),
        (["article", "highlights"], SUMMARY, {"document": "article", "summary": "highlights"}),
        (["dialogue", "summary"], SUMMARY, {"document": "dialogue", "summary": "summary"}),
        (
            ["instruction", "input", "output"], PROMPT,
            {"prompt": "instruction", "context": "input", "response": "output"},
        ),
        (["prompt", "completion"], PROMPT, {"prompt": "prompt", "response": "completion"}),
        (["prompt"], BARE, {"prompt": "prompt"}),
        (["text", "url"], TEXT, {"text": "text"}),
    ],
)  # fmt: skip
def test_common_column_names_are_recognised(names, shape, columns):
    assert recognised(names) == (shape, columns)


def test_only_the_given_shapes_are_considered():
    assert recognised(["question", "answer", "text"], [TEXT]) == (TEXT, {"text": "text"})
    assert recognised(["question", "answer"], [LABELLED, SUMMARY]) is None


def test_error_lists_columns_and_expected_names():
    with pytest.raises(EvalError) as caught:
        columns_of("--questions q.csv", ["q", "a"], [QUESTION])
    assert str(caught.value) == (
        "--questions q.csv: the columns are q, a; expected question and answers/answer"
    )
