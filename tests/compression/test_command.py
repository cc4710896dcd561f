"""Wrong uses of ``python -m compression``; right ones stand in tests/end_to_end."""

import json

import pytest

from compression.__main__ import main
from fixtures import corpus
from fixtures.shipped import MODELS


@pytest.fixture
def reviews(tmp_path):
    rows = [corpus.review("calibration", index) for index in range(64)]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(json.dumps({"text": r.text, "label": r.label}) for r in rows))
    return path


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "recipe, model, output missing"),
        (["wander-50", "--model", "m", "--output", "o"], "did you mean 'wanda'"),
        (["wanda-50", "--model", "m", "--output", "{out}"], "needs texts; give --data FILE"),
        (["rtn-int8", "--model", "{tmp}", "--output", "{out}"], "no config.json"),
        (["rtn-int8", "--model", "/nowhere/x", "--output", "{out}"], "/nowhere/x does not load"),
        (["rtn-int8", "--model", "{bert}", "--output", "{tmp}"], "exists; name a directory"),
        (["rtn-int8", "--model", "{bert}", "--output", "{bert}/config.json/x"],
         "cannot be written"),
        (["wanda-50", "--model", "{bert}", "--output", "{out}", "--data", "/nowhere.txt"],
         "--data /nowhere.txt: No such file"),
        (["wanda-50", "--model", "{bert}", "--output", "{out}", "--data", "{bad}"],
         "line 2 is not"),
        (["wanda-50", "--model", "{bert}", "--output", "{out}", "--data", "{empty}"], "no text in"),
        (["taylor-50", "--model", "{bert}", "--output", "{out}", "--data", "{labels}"],
         "label 7 is not one of the model's 2 classes"),
        (["wanda-3:5", "--model", "{bert}", "--output", "{out}", "--data", "{good}"],
         "an input width of 96 is not a multiple of 5"),
        (["rtn-int8,include=*ffn*", "--model", "{bert}", "--output", "{out}"],
         "'*ffn*' matches no linear layer"),
        (["rtn-int8", "--model", "{bert}", "--output", "{out}", "--device", "cuda"],
         "this machine has no CUDA device"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_clear_line_and_leaves_nothing(
    tmp_path, reviews, capsys, monkeypatch, words, complaint
):
    files = {
        "bad": '{"text": "a"}\n{"txt": "b"}\n',
        "labels": '{"text": "a", "label": 7}\n',
        "empty": "\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    places = {name: tmp_path / f"{name}.jsonl" for name in files}
    places |= {"out": tmp_path / "out", "tmp": tmp_path, "bert": MODELS / "bert-tiny",
               "good": reviews}  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    try:
        code = main([word.format(**places) for word in words])
    except SystemExit as stopped:
        code = stopped.code
    told = capsys.readouterr()
    assert code == 2
    assert told.out == ""
    assert complaint in told.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
