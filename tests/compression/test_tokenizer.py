"""Saved tokenizers equal the baseline's, irrespective of calls before saving."""

import json
import shutil
import sys
from types import ModuleType

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from compression_gates.compression.__main__ import main
from compression_gates.compression.checkpoint.saving_tokenizer import save_tokenizer
from compression_gates.compression.errors import CompressionError
from compression_gates.fixtures.world import tokenizers as vocabulary
from compression_gates.fixtures.world.shipped import MODELS

TEXT = "Rufus lives in Merrin and owns a steel drum that he likes very much.\n"
LONG = "a b c d e f g h i j k l m n o p q r s t u v w x y z"


def files(directory, names=("tokenizer*", "chat_template*", "additional_chat_templates/*")):
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for name in names
        for file in directory.glob(name)
    }


def truncated(place, **options):
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer([LONG], truncation=True, **{"max_length": 4, **options})
    return tokenizer


def test_length_setting_does_not_change_the_tokenizer(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT * 20)
    words = ["wanda-50,length=8", "--model", str(MODELS / "llama-tiny")]
    words += ["--output", str(tmp_path / "out"), "--data", str(tmp_path / "text.txt")]
    assert main(words) == 0, capsys.readouterr().err
    assert files(tmp_path / "out") == files(MODELS / "llama-tiny")


@pytest.mark.parametrize("model", ["bert-tiny", "albert-tiny", "roberta-tiny"])
def test_files_are_copied_after_truncation(tmp_path, model):
    save_tokenizer(truncated(MODELS / model, padding="max_length"), tmp_path)
    assert files(tmp_path) == files(MODELS / model)


def test_truncation_of_the_baseline_is_kept(tmp_path):
    place, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(MODELS / "bert-tiny", place, copy_function=shutil.copyfile)
    described = json.loads((place / "tokenizer.json").read_text())
    described["truncation"] = {
        "direction": "Right", "max_length": 60, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    (place / "tokenizer.json").write_text(json.dumps(described))
    out.mkdir()
    save_tokenizer(truncated(place), out)
    assert files(out) == files(place)


def test_additional_chat_templates_are_copied(tmp_path):
    place, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(MODELS / "llama-tiny", place, copy_function=shutil.copyfile)
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    out.mkdir()
    save_tokenizer(AutoTokenizer.from_pretrained(place), out)
    assert files(out) == files(place)
    assert (out / "additional_chat_templates" / "tool_use.jinja").is_file()


def test_truncation_of_the_last_call_is_not_saved(tmp_path):
    tokenizer = vocabulary.causal(64)
    tokenizer(LONG, truncation=True, max_length=4)
    save_tokenizer(tokenizer, tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).truncation is None
    assert tokenizer.backend_tokenizer.truncation is not None


def test_padding_of_the_last_call_is_not_saved(tmp_path):
    tokenizer = vocabulary.causal(64)
    tokenizer(LONG, padding="max_length", max_length=40)
    save_tokenizer(tokenizer, tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).padding is None
    assert tokenizer.backend_tokenizer.padding is not None


def test_added_tokens_are_saved(tmp_path):
    tokenizer = truncated(MODELS / "llama-tiny")
    tokenizer.add_tokens(["<|new|>"])
    save_tokenizer(tokenizer, tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert saved.token_to_id("<|new|>") == len(tokenizer) - 1
    assert saved.truncation is None


def test_missing_source_folder(tmp_path):
    place, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(MODELS / "llama-tiny", place, copy_function=shutil.copyfile)
    tokenizer = truncated(place)
    shutil.rmtree(place)
    save_tokenizer(tokenizer, out)
    assert AutoTokenizer.from_pretrained(out)(LONG) == tokenizer(LONG)


def add_token(tokenizer):
    tokenizer.add_tokens(["<|new|>"])


def add_known_word(tokenizer):
    """Add a token of the vocabulary, so that it is never merged into another one."""
    tokenizer.add_tokens([tokenizer.convert_ids_to_tokens(300)])


def change_special(tokenizer):
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(5)


def change_template(tokenizer):
    tokenizer.chat_template = "{{ messages[0].content }}"


@pytest.mark.parametrize("change", [add_token, add_known_word, change_special, change_template])
def test_changes_after_loading_are_saved(tmp_path, change):
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "llama-tiny")
    change(tokenizer)
    save_tokenizer(tokenizer, tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert saved.get_vocab() == tokenizer.get_vocab()
    assert saved.eos_token == tokenizer.eos_token
    assert saved.chat_template == tokenizer.chat_template
    assert tokenizer.added_tokens_decoder.keys() <= saved.added_tokens_decoder.keys()
    assert saved(TEXT).input_ids == tokenizer(TEXT).input_ids


def phobert(place):
    (place / "vocab.txt").write_text("a@@ 3\nb 2\nab 1\n")
    (place / "bpe.codes").write_text("a b</w> 3\n")
    return {"tokenizer_class": "PhobertTokenizer"}


def fsmt(place):
    words = {
        token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "ab</w>"])
    }
    for name in ("vocab-src.json", "vocab-tgt.json"):
        (place / name).write_text(json.dumps(words))
    (place / "merges.txt").write_text("a b</w> 3\n")
    return {"tokenizer_class": "FSMTTokenizer", "langs": ["en", "ru"], "do_lower_case": False}


@pytest.mark.parametrize("make", [phobert, fsmt])
def test_files_of_unusual_tokenizer_classes_are_copied(tmp_path, make, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", ModuleType("sacremoses"))
    place, out = tmp_path / "base", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    (place / "tokenizer_config.json").write_text(json.dumps(make(place)))
    tokenizer = AutoTokenizer.from_pretrained(place)
    save_tokenizer(tokenizer, out)
    assert files(out, ["*"]) == files(place, ["*"])
    assert AutoTokenizer.from_pretrained(out).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.write_text("{}"), "does not load"),
        (lambda file: file.write_text(file.read_text().replace('"content": "<', '"content": "<_')),
         "loads with another"),
    ],
)  # fmt: skip
def test_damaged_tokenizer_is_an_error(tmp_path, monkeypatch, change, message):
    tokenizer = vocabulary.causal(64)
    write = type(tokenizer).save_pretrained

    def wrong(self, directory, **options):
        write(self, directory, **options)
        change(tmp_path / "tokenizer.json")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", wrong)
    with pytest.raises(CompressionError, match=f"its tokenizer {message}"):
        save_tokenizer(tokenizer, tmp_path)
