"""Texts and labels from all supported files, and errors."""

import csv
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.text_files import read_texts

TEXTS = ["a good story", "a dull one,\nin two lines", 'he said "no"']
LABELS = [1, 0, 0]


def write(path, texts, labels=None):
    """Write a table in the format of the file's extension."""
    rows = [{"text": text} for text in texts]
    for row, label in zip(rows, labels or (), strict=False):
        row["label"] = label
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path


KINDS = [".jsonl", ".json", ".csv", ".tsv", ".parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_with_texts_and_labels(tmp_path, kind):
    path = write(tmp_path / f"data{kind}", TEXTS, LABELS)
    assert read_texts(path) == (TEXTS, LABELS)
    assert read_texts(write(tmp_path / f"plain{kind}", TEXTS)) == (TEXTS, None)


@pytest.mark.parametrize("name", ["data", "data.txt", "data.en", "data.md"])
def test_plain_text_has_one_text_per_line(tmp_path, name):
    (tmp_path / name).write_text("one\r\n\n  two\n")
    assert read_texts(tmp_path / name) == (["one", "  two"], None)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1))
def test_round_trip(tmp_path_factory, texts):
    texts = [text for text in texts if text.strip()]
    if texts:
        folder = tmp_path_factory.mktemp("texts")
        for kind in KINDS:
            assert read_texts(write(folder / f"data{kind}", texts)) == (texts, None)


def test_unicode_line_separators_in_json(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "one\u2028two"}\r\n{"text": "three", "label": 1}\n')
    assert read_texts(path) == (["one\u2028two", "three"], None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "review,stars\ngood,1\n", r'line 2 is not \{"text".*; it has review, stars'),
        ("a.csv", "text,label\ngood,positive\n", "line 2: label 'positive' is not an integer"),
        ("a.csv", "text,label\ngood\n", "line 2 and the header differ in length"),
        ("a.csv", 'text\n"good', "invalid csv: "),
        ("a.csv", "text\n", "contains no text"),
        ("a.tsv", "sentence\tlabel\ngood\t1\n", "it has sentence, label"),
        ("a.json", '["good"]', "element 1 is not"),
        ("a.json", "[1,", "invalid json: "),
        ("a.json", '{"texts": ["good"]}', "line 1 is not .*; it has texts"),
        ("a.jsonl", "good\n", "line 1 is not"),
        ("a.jsonl", '{"text": "\\ud800"}\n', "line 1: the text contains an unpaired surrogate"),
        ("a.parquet", "good\n", "invalid parquet: "),
        ("a.html", "<p>good</p>\n", ".html is not supported; give .jsonl"),
        ("a.XLSX", "good\n", ".xlsx is not supported"),
        ("a.txt", " \n", "contains no text"),
    ],
)
def test_invalid_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CompressionError, match=message) as caught:
        read_texts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_invalid_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\xff")
    with pytest.raises(CompressionError, match="not UTF-8 at byte 4"):
        read_texts(tmp_path / "a.txt")


def test_named_pipes_and_damaged_files(tmp_path):
    import pyarrow
    from pyarrow import parquet

    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "long.csv").write_text("text,label\na," + "7" * 5000 + "\n")
    dates = pyarrow.array([2**62], pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"text": ["a"], "when": dates}), tmp_path / "date.parquet")
    whole = (tmp_path / "date.parquet").read_bytes()
    for place in range(4, len(whole), 40):
        damaged = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        (tmp_path / f"{place}.parquet").write_bytes(damaged)
    for file in tmp_path.iterdir():
        with pytest.raises(CompressionError) as caught:
            read_texts(file)
        assert "\n" not in str(caught.value)
