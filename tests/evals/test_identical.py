"""Whether two checkpoints hold the same weights."""

import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from evals.checkpoint import open_checkpoint
from evals.identical import same_weights
from fixtures.shipped import MODELS


@pytest.fixture
def base():
    return open_checkpoint(MODELS / "bert-tiny")


@pytest.fixture
def copy(tmp_path):
    """``copy(change)``: the shipped model with its tensors changed, and saved again."""

    def make(change=lambda tensors: None, metadata=None):
        shutil.copytree(MODELS / "bert-tiny", tmp_path / "copy")
        file = tmp_path / "copy" / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata or {"format": "pt"})
        return open_checkpoint(tmp_path / "copy")

    return make


def test_a_checkpoint_is_itself_by_whatever_path(base, tmp_path):
    (tmp_path / "link").symlink_to(MODELS / "bert-tiny")
    assert same_weights(base, open_checkpoint(tmp_path / "link"))


def test_a_copy_is_the_same_whatever_else_its_folder_holds(base, copy):
    other = copy(metadata={"format": "pt", "note": "a longer header moves the bytes"})
    (other.path / "README.md").write_text("a copy")
    assert same_weights(base, other)
    assert same_weights(other, base)


def test_a_copy_in_shards_is_the_same(base, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(MODELS / "bert-tiny", dtype="auto")
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    AutoTokenizer.from_pretrained(MODELS / "bert-tiny").save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert same_weights(base, open_checkpoint(tmp_path))


def flip_one_bit(tensors):
    weight = next(iter(tensors.values()))
    whole = weight.view(-1)
    whole[-1] = -whole[-1] if whole[-1] else 1.0


@pytest.mark.parametrize(
    "change",
    [
        flip_one_bit,
        lambda tensors: tensors.update(extra=next(iter(tensors.values())).clone()),
        lambda tensors: tensors.pop("classifier.bias"),
        lambda tensors: tensors.update({"classifier.bias": tensors["classifier.bias"].half()}),
    ],
)
def test_other_weights_are_not_the_same(base, copy, change):
    assert not same_weights(base, copy(change))


def test_another_model_or_another_form_is_not_the_same(base, copy):
    assert not same_weights(base, open_checkpoint(MODELS / "roberta-tiny"))
    assert not same_weights(base, replace(copy(), form="gptq"))


def test_a_cut_file_is_not_the_same(base, copy):
    other = copy()
    file = other.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert not same_weights(base, other)
    file.write_bytes(b"short")
    assert not same_weights(base, other)
