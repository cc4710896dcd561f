"""A saved tokenizer is the baseline's, whatever it was called with in between."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from compression_gates.compression.__main__ import main
from compression_gates.compression.checkpoint.tokenizer_files import save_tokenizer
from compression_gates.fixtures.world import tokenizers as vocabulary

MODELS = Path("fixtures/models")
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


def test_a_length_of_a_recipe_is_none_of_the_checkpoints(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT * 20)
    words = ["wanda-50,length=8", "--model", str(MODELS / "llama-tiny")]
    words += ["--output", str(tmp_path / "out"), "--data", str(tmp_path / "text.txt")]
    assert main(words) == 0, capsys.readouterr().err
    assert files(tmp_path / "out") == files(MODELS / "llama-tiny")


@pytest.mark.parametrize("model", ["bert-tiny", "albert-tiny", "roberta-tiny"])
def test_every_file_is_copied_whatever_the_last_call(tmp_path, model):
    save_tokenizer(truncated(MODELS / model, padding="max_length"), tmp_path)
    assert files(tmp_path) == files(MODELS / model)


def test_a_truncation_that_the_baseline_has_stays(tmp_path):
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


def test_further_templates_are_copied(tmp_path):
    place, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(MODELS / "llama-tiny", place, copy_function=shutil.copyfile)
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    out.mkdir()
    save_tokenizer(AutoTokenizer.from_pretrained(place), out)
    assert files(out) == files(place)
    assert (out / "additional_chat_templates" / "tool_use.jinja").is_file()


def test_a_tokenizer_from_memory_loses_the_truncation_of_its_last_call(tmp_path):
    tokenizer = vocabulary.causal(64)
    tokenizer(LONG, truncation=True, max_length=4)
    save_tokenizer(tokenizer, tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).truncation is None


def test_what_was_added_since_it_was_loaded_is_saved(tmp_path):
    tokenizer = truncated(MODELS / "llama-tiny")
    tokenizer.add_tokens(["<|new|>"])
    save_tokenizer(tokenizer, tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert saved.token_to_id("<|new|>") == len(tokenizer) - 1
    assert saved.truncation is None


def test_a_folder_that_is_gone_since_is_no_reason_to_fail(tmp_path):
    place, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(MODELS / "llama-tiny", place, copy_function=shutil.copyfile)
    tokenizer = truncated(place)
    shutil.rmtree(place)
    save_tokenizer(tokenizer, out)
    assert AutoTokenizer.from_pretrained(out)(LONG) == tokenizer(LONG)
