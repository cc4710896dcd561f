"""Recognition of shapes by the names of columns."""

import json
import re
from pathlib import Path

import pytest

from compression_gates.evals import tasks
from compression_gates.evals.checkpoints.checkpoint import CLASSIFIER
from compression_gates.evals.data import shapes, tables
from compression_gates.evals.data.items import Labelled
from compression_gates.evals.data.rows import Place
from compression_gates.evals.data.shapes import (
    BARE,
    LABELLED,
    PROMPT,
    QUESTION,
    SHAPES,
    SUMMARY,
    TEXT,
    columns_of,
    recognised,
)
from compression_gates.evals.errors import EvalError
from compression_gates.evals.tasks import TASKS

README = Path(__file__).parents[2] / "evals" / "README.md"


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


def test_example_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SHAPES", dict(SHAPES))
    monkeypatch.setattr(tables, "SHAPES", shapes.SHAPES)
    monkeypatch.setattr(tasks, "TASKS", {kind: dict(roles) for kind, roles in TASKS.items()})
    text = README.read_text(encoding="utf-8").partition("### A shape of your own")[2]
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    row = {"premise": "A cat.", "hypothesis": "An animal.", "label": 1}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    shape, columns = recognised(row)
    assert tasks.default_roles(shape, CLASSIFIER) == ["labels"]
    data = tables.data_set("pairs", tables.Table(Place(path=str(tmp_path / "rows.jsonl")), columns))
    assert data.items == (Labelled("A cat. An animal.", 1, 0),)
