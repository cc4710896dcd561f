"""Whether two checkpoints hold the same weights."""

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from compression_gates.evals.checkpoints.checkpoint import ADAPTER, ADAPTER_WEIGHTS, open_checkpoint
from compression_gates.evals.checkpoints.identical import has_no_effect, same_weights
from compression_gates.fixtures.world.shipped import MODELS


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


@pytest.fixture
def adapter(tmp_path):
    """``adapter(change, settings)``: a LoRA adapter of the shipped LLaMA, as training leaves it."""
    pytest.importorskip("peft")
    from tests.end_to_end import foreign

    def make(change=lambda tensors: None, **settings):
        path = foreign.lora(MODELS / "llama-tiny", tmp_path / "adapter")
        tensors = load_file(path / ADAPTER_WEIGHTS)
        change(tensors)
        save_file(tensors, path / ADAPTER_WEIGHTS)
        described = json.loads((path / ADAPTER).read_text())
        (path / ADAPTER).write_text(json.dumps(described | settings))
        return open_checkpoint(path)

    return make


def zero(part):
    def change(tensors):
        for name, tensor in tensors.items():
            if part in name:
                tensor.zero_()

    return change


def zero_in_all_but_one_layer(tensors):
    zero("lora_B")(tensors)
    next(tensor for name, tensor in tensors.items() if "lora_B" in name).fill_(0.1)


def one_of_each(tensors):
    """Pairs of which one has a factor of zeros on the left, the other on the right."""
    for index, layer in enumerate(sorted({name.partition(".lora_")[0] for name in tensors})):
        tensors[f"{layer}.lora_{'AB'[index % 2]}.weight"].zero_()


@pytest.mark.parametrize(
    ("change", "settings"),
    [(zero("lora_B"), {}), (zero("lora_A"), {}), (one_of_each, {}), (len, {"lora_alpha": 0})],
)
def test_an_adapter_that_has_no_effect_is_its_base(adapter, change, settings):
    checkpoint = adapter(change, **settings)
    assert has_no_effect(checkpoint.path)
    assert same_weights(open_checkpoint(MODELS / "llama-tiny"), checkpoint)
    assert same_weights(checkpoint, open_checkpoint(MODELS / "llama-tiny"))


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (len, {}),
        (zero_in_all_but_one_layer, {}),
        (len, {"lora_alpha": 0, "alpha_pattern": {"q_proj": 4}}),
        (zero("lora_B"), {"peft_type": "IA3"}),
        (lambda tensors: tensors.update({"x.modules_to_save.weight": tensors.popitem()[1]}), {}),
    ],
)
def test_an_adapter_that_adds_something_is_not(adapter, change, settings):
    checkpoint = adapter(change, **settings)
    assert not has_no_effect(checkpoint.path)
    assert not same_weights(open_checkpoint(MODELS / "llama-tiny"), checkpoint)
