"""The project's own format: content, size on disk, and validation."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.checkpoint.own_format import METHOD
from compression_gates.compression.checkpoint.saving import form_of, save
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.recipe import Recipe
from compression_gates.fixtures.world import tokenizers as vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.causal(64)


@pytest.fixture
def saved(tiny_llama, batches, tokenizer, tmp_path):
    def make(text):
        result = compress(tiny_llama, Recipe.parse(text), batches)
        save(result, tokenizer, tmp_path / "out")
        return result, tmp_path / "out"

    return make


def tensors(directory):
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping


@pytest.mark.parametrize("bits", range(2, 9))
def test_size_of_packed_weights(saved, bits):
    result, directory = saved(f"rtn-int{bits},symmetric=false,group=16")
    assert form_of(result) == METHOD
    stored = tensors(directory)
    for name, quantized in result.quantized.items():
        rows, columns = quantized.codes.shape
        assert f"{name}.weight" not in stored
        assert stored[f"{name}.weight_packed"].nbytes == rows * -(-columns * bits // 32) * 4
        assert stored[f"{name}.weight_scales"].nbytes == rows * columns // 16 * 4
        assert stored[f"{name}.weight_zeros"].nbytes == rows * columns // 16


def test_size_of_bitmask_and_values(saved):
    result, directory = saved("wanda-50+bitmask")
    stored = tensors(directory)
    for name in result.pruned:
        weight = result.model.get_submodule(name).weight
        assert stored[f"{name}.weight_bitmask"].nbytes == weight.numel() // 8
        assert stored[f"{name}.weight_values"].nbytes == int((weight != 0).sum()) * 4


def test_dense_layers_have_no_bitmask(saved):
    result, _ = saved("magnitude-0+bitmask")
    assert result.bitmask == []
    assert form_of(result) == "plain"


def test_packed_layers_have_no_bitmask(saved):
    result, directory = saved("wanda-50,include=*mlp*+rtn-int4,include=*down_proj+bitmask")
    assert set(result.bitmask) == set(result.pruned) - set(result.quantized)
    stored = tensors(directory)
    for name in result.quantized:
        assert f"{name}.weight_packed" in stored
        assert f"{name}.weight_bitmask" not in stored


@pytest.mark.parametrize("name", ["mixtral", "llama4", "gpt_oss", "jetmoe"])
def test_experts_share_one_bitmask(name, tokenizer, tmp_path):
    model = ARCHITECTURES[name].make()
    result = compress(model, Recipe.parse("magnitude-50+bitmask"))
    assert set(result.bitmask) == set(result.pruned)
    assert save(result, tokenizer, tmp_path / "out") == METHOD
    stored = tensors(tmp_path / "out")
    for layer in all_layers(model).values():
        if layer.expert is not None:
            assert stored[f"{layer.stored_name}_bitmask"].nbytes == -(-layer.stored.numel() // 8)
            values = stored[f"{layer.stored_name}_values"]
            assert len(values) == int((layer.stored != 0).sum())
    loaded = type(model).from_pretrained(tmp_path / "out").state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


def test_partly_selected_experts_are_stored_dense_with_a_note():
    result = compress(
        ARCHITECTURES["mixtral"].make(), Recipe.parse("magnitude-50+bitmask,exclude=*down_proj.1")
    )
    assert not any("down_proj" in name for name in result.bitmask)
    assert any("gate_up_proj" in name for name in result.bitmask)
    (note,) = result.notes
    assert "layers.0.mlp.experts.down_proj" in note
    assert "only some of them are selected" in note


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("text", ["rtn-int4,symmetric=false", "log-int4", "wanda-50+bitmask",
                                  "svd-50+rtn-int8"])  # fmt: skip
def test_half_precision_is_exact(tiny_llama, batches, tokenizer, tmp_path, dtype, text):
    result = compress(tiny_llama.to(dtype), Recipe.parse(text), batches)
    save(result, tokenizer, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    tensors_after = loaded.state_dict()
    for name, tensor in result.model.state_dict().items():
        assert tensors_after[name].dtype == tensor.dtype
        assert torch.equal(tensors_after[name], tensor)


def test_saving_does_not_change_the_model(saved, batches):
    result, _ = saved("rtn-int4,symmetric=false")
    again = {name for name, _ in result.model.named_parameters()}
    assert "model.layers.0.self_attn.q_proj.weight" in again
    assert not any("packed" in name for name, _ in result.model.named_buffers())
    with torch.no_grad():
        assert result.model(**batches[0]).logits.isfinite().all()


def change(directory, **settings):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= settings
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": 2}, "version 2 of the format"),
        ({"code": "import os"}, "with code"),
        ({"attributes": {"model.layers.0.self_attn": {"forward": 1}}}, "is not a valid size"),
        ({"attributes": {"model.layers.0.self_attn": {"head_dim": "8"}}}, "is not a valid size"),
    ],
)
def test_invalid_descriptions(saved, settings, message):
    _, directory = saved("svd-50")
    change(directory, **settings)
    with pytest.raises(Exception, match=message):
        AutoModelForCausalLM.from_pretrained(directory)


Q_PROJ = "model.layers.0.self_attn.q_proj"


def tamper(directory, changes):
    """Change the description of a stored weight."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["weights"][f"{Q_PROJ}.weight"] |= changes
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transposed": True}, "wrong transposed"),
        ({"transposed": 0}, "wrong transposed"),
        ({"shape": [16, 64]}, r"wrong shape \(the model expects \[32, 32\]\)"),
        ({"shape": None}, "wrong shape"),
        ({"bits": 3.7}, "wrong bits"),
        ({"bits": 10**9}, "wrong bits"),
        ({"symmetric": "no"}, "wrong symmetric"),
        ({"grid": "nope"}, "wrong grid"),
        ({"form": "nope"}, "wrong form"),
        ({"scales": [32, 5]}, "wrong number of scales"),
        ({"more": 1}, "wrong set of keys"),
    ],
)
def test_invalid_stored_forms(saved, changes, message):
    _, directory = saved("rtn-int4,symmetric=false")
    tamper(directory, changes)
    with pytest.raises(CompressionError, match=f"{Q_PROJ}.*{message}"):
        AutoModelForCausalLM.from_pretrained(directory)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activations": {"model.norm": "int8"}}, "inputs cannot be quantized"),
        ({"activations": {Q_PROJ: "int7"}}, "inputs cannot be quantized"),
        ({"activations": [Q_PROJ]}, "activations is not a table"),
        ({"factored": {Q_PROJ: 10**9}}, "does not fit its shape"),
        ({"factored": {"model.nothing": 1}}, "which the model lacks"),
        ({"resized": {Q_PROJ: [10**9, 32]}}, "does not fit its shape"),
    ],
)
def test_invalid_layouts(saved, settings, message):
    _, directory = saved("rtn-int4,symmetric=false")
    change(directory, **settings)
    with pytest.raises(CompressionError, match=message):
        AutoModelForCausalLM.from_pretrained(directory)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("scales", lambda t: -t),
        ("scales", lambda t: t.int()),
        ("zeros", lambda t: torch.full_like(t, 255)),
    ],
)
def test_invalid_stored_tensors(saved, part, other):
    from safetensors.torch import save_file

    _, directory = saved("rtn-int4,symmetric=false")
    stored = tensors(directory)
    key = f"{Q_PROJ}.weight_{part}"
    stored[key] = other(stored[key])
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(CompressionError, match=f"{Q_PROJ}.weight"):
        AutoModelForCausalLM.from_pretrained(directory)


def test_truncated_tensor(saved):
    from safetensors.torch import save_file

    _, directory = saved("rtn-int4,symmetric=false")
    stored = tensors(directory)
    stored[f"{Q_PROJ}.weight_scales"] = stored.pop(f"{Q_PROJ}.weight_scales")[:, :0]
    save_file(stored, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(Exception, match=r"weight_scales|ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(directory)
