"""Rows of files, folders and the hub, and one-line errors for files that cannot be read."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from compression_gates.evals.data.rows import Place, read_rows
from compression_gates.evals.errors import EvalError

ROWS = [{"text": "one, two", "label": 0}, {"text": 'zwei\u2028"drei"', "label": 1}]


def written(tmp_path, ending):
    path = tmp_path / f"rows{ending}"
    if ending == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    elif ending == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif ending == ".csv":
        path.write_text('text,label\n"one, two",0\n"zwei\u2028""drei""",1\n')
    else:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_file_format_gives_the_same_rows(tmp_path, ending):
    rows = read_rows(Place(path=str(written(tmp_path, ending))))
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [int(row["label"]) for row in rows] == [0, 1]
    assert len(read_rows(Place(path=str(written(tmp_path, ending))), most=1)) == 1


def test_json_lines_with_the_suffix_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert read_rows(Place(path=str(path))) == ROWS


def test_nested_json_of_squad(tmp_path):
    questions = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]},
        {"id": "2", "question": "Where?", "is_impossible": True, "answers": []},
    ]
    articles = [{"title": "T", "paragraphs": [{"context": "Ann met Bo.", "qas": questions}]}]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "2.0", "data": articles}))
    common = {"title": "T", "context": "Ann met Bo."}
    assert read_rows(Place(path=str(path))) == [
        {**common, "question": "Who?", "answers": {"text": ["Ann"]}},
        {**common, "question": "Where?", "answers": {"text": []}},
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"qas": questions}]}]}))
    with pytest.raises(EvalError, match=r"not in the format of SQuAD \(KeyError: 'context'\)"):
        read_rows(Place(path=str(path)))


def test_json_object_with_rows_under_data(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=1))
    assert read_rows(Place(path=str(path))) == ROWS


def test_lines_of_a_text_file_are_rows(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_bytes("\ufeff = Title = \n\nA line\u2028with a separator\r\n".encode())
    rows = [row["text"] for row in read_rows(Place(path=str(path)))]
    assert rows == [" = Title = ", "", "A line\u2028with a separator"]


def test_folder_saved_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": whole, "train": whole}).save_to_disk(tmp_path / "two")
    assert read_rows(Place(path=str(tmp_path / "one"))) == ROWS
    assert read_rows(Place(path=str(tmp_path / "two"), split="train")) == ROWS
    with pytest.raises(EvalError, match="no split 'validation'; it has test, train"):
        read_rows(Place(path=str(tmp_path / "two"), split="validation"))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.jsonl", None, "no such file or folder"),
        ("rows.xml", b"<a/>", "rows come from .jsonl, .json, .csv, .tsv, .parquet, .txt"),
        ("empty.jsonl", b"\n", "has no rows"),
        ("bad.jsonl", b'{"a": 1}\n{"a"', "line 2 is not JSON"),
        ("list.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("bad.json", b"[1, 2", "not JSON"),
        ("numbers.json", b"[1, 2]", "element 1 is not a JSON object"),
        ("ragged.csv", b"a,b\n1,2\n3\n", "line 3 does not have as many cells as the header"),
        ("wide.csv", b"a,b\n1,2,3\n", "line 2 does not have as many cells as the header"),
        ("bad.parquet", b"PAR1 not", "not Parquet"),
        ("latin.csv", b"text\ncaf\xe9\n", "not UTF-8 at byte 8"),
        ("latin.txt", b"caf\xe9\n", "not UTF-8 at byte 3"),
    ],
)
def test_damaged_file_is_a_one_line_error(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EvalError) as caught:
        read_rows(Place(path=str(tmp_path / name)))
    assert complaint in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_not_saved_by_datasets(tmp_path):
    with pytest.raises(EvalError, match="not a folder that datasets saved"):
        read_rows(Place(path=str(tmp_path)))


def hub(monkeypatch, load_dataset):
    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    module.utils = SimpleNamespace(logging=SimpleNamespace(set_verbosity_error=lambda: None))
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_arguments_of_load_dataset(monkeypatch):
    arguments = {}

    def load_dataset(name, config, **more):
        arguments.update(more, name=name, config=config)
        return iter(ROWS)

    hub(monkeypatch, load_dataset)
    rows = read_rows(Place(hub="some/set@v2", config="small", split="validation"), most=1)
    assert rows == ROWS[:1]
    assert arguments["name"] == "some/set"
    expected = {"revision": "v2", "config": "small", "split": "validation"}
    assert arguments.items() >= expected.items()
    assert not arguments["streaming"]
    # A large file is streamed, so that its first rows can be read without a full download.
    read_rows(Place(hub="allenai/c4", files="en/one.json.gz", split="train"), most=1)
    assert arguments["streaming"]
    assert arguments["data_files"] == {"train": "en/one.json.gz"}


def test_error_without_hub_suggests_a_local_copy(monkeypatch):
    def load_dataset(*args, **more):
        raise ConnectionError("offline\nmore")

    hub(monkeypatch, load_dataset)
    with pytest.raises(EvalError, match=r"Error: offline\); name a local copy of it"):
        read_rows(Place(hub="some/set"))


def test_error_without_datasets_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EvalError, match="needs the package datasets: pip install datasets"):
        read_rows(Place(hub="some/set"))
