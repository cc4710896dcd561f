"""Compressing models from Python, with texts in several forms."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.from_texts import compress
from compression_gates.compression.model.text_rows import read_rows
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS

BASE = MODELS / "bert-tiny"
REVIEWS = [corpus.review("calibration", index) for index in range(16)]
TEXTS, LABELS = [item.text for item in REVIEWS], [item.label for item in REVIEWS]


def weights(compressed):
    return compressed.model.bert.encoder.layer[0].output.dense.weight


@pytest.mark.parametrize(
    "rows",
    [
        lambda: zip(TEXTS, LABELS, strict=True),
        lambda: [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)],
        lambda: [list(pair) for pair in zip(TEXTS, np.array(LABELS), strict=True)],
        lambda: (pair for pair in zip(TEXTS, np.array(LABELS), strict=True)),
    ],
)
def test_supported_forms_of_rows(rows):
    assert read_rows(rows(), "data") == (TEXTS, LABELS)


def test_rows_without_labels():
    assert read_rows(TEXTS, "data") == (TEXTS, None)
    assert read_rows([{"text": text} for text in TEXTS], "data") == (TEXTS, None)
    assert read_rows([("a", "good")], "data", named=True) == (["a"], ["good"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        (iter(()), "no rows"),
        ("a text", "str is not a list of rows"),
        (b"a text", "bytes is not a list of rows"),
        ({"text": "a"}, "dict is not a list of rows"),
        (3, "int is not a list of rows"),
        (["a", 1], "row 2 is 1; give"),
        (["a", b"b"], "row 2 is b'b'; give"),
        (["a", {"content": "b"}], "row 2 is {'content': 'b'}; give"),
        (["a", ("b", 1, 2)], "row 2 is .*; give"),
        ([("a", 0), ("b", "good")], "row 2: label 'good' is not an integer"),
        ([("a", True)], "row 1: label True is not an integer"),
        ([("a", 0.5)], "row 1: label 0.5 is not an integer"),
        ([("a", 0), "b"], "row 2 has no label, but others do"),
        ([{"text": 3}], "row 1: 3 is not a text"),
        (["a", "  "], "row 2: '  ' is not a text"),
        (["\ud800"], "row 1: the text contains an unpaired surrogate"),
    ],
)
def test_invalid_rows(rows, message):
    with pytest.raises(CompressionError, match=f"^data: {message}"):
        read_rows(rows, "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "rtn-int8"), "model: NoneType is not a directory, a hub id, a PreTrainedModel or"),
        ((3, "rtn-int8"), "model: int is not a directory"),
        ((BASE, "wanda-50", [1]), "data: row 1 is 1; give"),
        ((BASE, "wanda-50", []), "data: no rows"),
        ((BASE, "wanda-50"), "wanda-50 needs texts; give data"),
        ((BASE, "wanda-50", [("a", 7)]), "data: text 1 has label 7, but the model has 2"),
        ((BASE, "wanda-50", "nowhere.txt"), "data nowhere.txt: No such file"),
        ((BASE, "distill-1layers,translate=nowhere/a|nowhere/b,steps=1", TEXTS), "translate = no"),
        ((BASE, "rtn-int8", None, None, "tpu"), "device tpu: give cpu, cuda, cuda:N or auto"),
        ((BASE, "rtn-int8", None, None, 3), "device 3: give cpu, cuda, cuda:N or auto"),
        ((BASE, 3), "a recipe is a string"),
    ],
)
def test_invalid_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(CompressionError, match=message):
        compress(*arguments)


def test_two_steps_can_name_the_same_file(tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    data = f"data={tmp_path / 'texts.txt'}"
    compressed = compress(BASE, f"wanda-50,{data}+gptq-int4,{data}")
    assert set(compressed.pruned) == set(compressed.quantized)


def test_setting_data_overrides_the_argument(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    other = ["One text."]
    by_file, by_rows, by_other = (
        weights(compress(BASE, recipe, data))
        for recipe, data in (
            (f"wanda-50,data={file}", other),
            ("wanda-50", TEXTS),
            ("wanda-50", other),
        )
    )
    assert torch.equal(by_file, by_rows)
    assert not torch.equal(by_file, by_other)
    assert torch.equal(weights(compress(BASE, f"wanda-50,data={file}")), by_rows)


def test_a_tuple_of_model_and_tokenizer(tiny_llama):
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "llama-tiny")
    by_tuple = compress((tiny_llama, tokenizer), "magnitude-50")
    apart = compress(tiny_llama, "magnitude-50", tokenizer=tokenizer)
    assert by_tuple.tokenizer is tokenizer
    for one, other in zip(by_tuple.model.parameters(), apart.model.parameters(), strict=True):
        assert one.equal(other)
