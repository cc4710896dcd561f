"""Only a checkpoint that gives back the model that was compressed is kept."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration, tokenizer
from compression_gates.compression.checkpoint.own_format import METHOD
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.recipe import Recipe


@pytest.mark.parametrize("name", ["modernbert", "falcon", "mamba", "gpt_bigcode"])
def test_what_compressed_tensors_does_not_load_takes_our_own_format(name, tmp_path):
    """Their code reads the weight of a layer before, or without, calling it."""
    model = ARCHITECTURES[name].make()
    result = compress(model, Recipe.parse("rtn-int8"))
    assert save(result, tokenizer(), tmp_path / "out") == METHOD
    assert any("not stored as compressed-tensors" in note for note in result.notes)
    loaded = type(model).from_pretrained(tmp_path / "out").state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize("name", ["gptj", "gpt_neo", "codegen"])
def test_buffers_that_no_checkpoint_holds_are_filled_again(name, tmp_path):
    """Tables of positions and masks beside a layer that is stored packed."""
    model = ARCHITECTURES[name].make()
    (batch, *_) = calibration(model)
    save(compress(model, Recipe.parse("log-int4")), tokenizer(), tmp_path / "out")
    loaded = type(model).from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_a_weight_that_is_read_without_a_call_stays_dense(tmp_path):
    model = ARCHITECTURES["mamba"].make()
    result = compress(model, Recipe.parse("svd-50"))
    save(result, tokenizer(), tmp_path / "out")
    assert [note for note in result.notes if "dt_proj stays dense" in note]
    assert not any("dt_proj" in name for name in result.layout.factored)
    assert any("in_proj" in name for name in result.layout.factored)


def flip(directory):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] *= 1.5
    save_file(tensors, file, {"format": "pt"})


def lose(directory):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, file, {"format": "pt"})


def configure(**changes):
    def change(directory):
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flip, "other values for model.norm.weight"),
        (lose, "lacks model.layers.1.mlp.down_proj.weight"),
        (configure(num_hidden_layers=3), "lacks model.layers.2"),
        (configure(intermediate_size=40), "has another shape for model.layers"),
        (configure(rms_norm_eps=0.5), "computes something else"),
        (configure(hidden_act="nope"), "it does not load: KeyError"),
    ],
)
@pytest.mark.parametrize("text", ["magnitude-50", "rtn-int8", "svd-50"])
def test_a_checkpoint_that_is_another_model_is_not_kept(
    tmp_path, monkeypatch, text, change, reason
):
    write = PreTrainedModel.save_pretrained

    def wrong(model, directory, **options):
        write(model, directory, **options)
        change(directory)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", wrong)
    result = compress(ARCHITECTURES["llama"].make(), Recipe.parse(text + ",exclude=*down_proj*"))
    with pytest.raises(CompressionError, match="was not kept") as caught:
        save(result, tokenizer(), tmp_path / "out")
    if text == "magnitude-50":  # others are told of by what reads their form
        assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_writer_that_fails_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("Some tensors share memory\nand more lines")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    result = compress(ARCHITECTURES["llama"].make(), Recipe.parse("magnitude-50"))
    with pytest.raises(CompressionError, match="RuntimeError: Some tensors share memory and more"):
        save(result, tokenizer(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
