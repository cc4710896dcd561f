"""The project's own format: what it holds, what it takes on disk, and what it refuses."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.checkpoint.own_format import METHOD
from compression_gates.compression.checkpoint.saving import form_of, load, save
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
def test_a_weight_takes_its_bits_its_scales_and_its_zero_points(saved, bits):
    result, directory = saved(f"rtn-int{bits},symmetric=false,group=16")
    assert form_of(result) == METHOD
    held = tensors(directory)
    for name, quantized in result.quantized.items():
        rows, columns = quantized.codes.shape
        assert f"{name}.weight" not in held
        assert held[f"{name}.weight_packed"].nbytes == rows * -(-columns * bits // 32) * 4
        assert held[f"{name}.weight_scales"].nbytes == rows * columns // 16 * 4
        assert held[f"{name}.weight_zeros"].nbytes == rows * columns // 16


def test_a_bitmask_takes_a_bit_a_weight_and_the_values_that_stay(saved):
    result, directory = saved("wanda-50+bitmask")
    held = tensors(directory)
    for name in result.pruned:
        weight = result.model.get_submodule(name).weight
        assert held[f"{name}.weight_bitmask"].nbytes == weight.numel() // 8
        assert held[f"{name}.weight_values"].nbytes == int((weight != 0).sum()) * 4


def test_a_dense_layer_is_not_stored_as_a_bitmask(saved):
    result, _ = saved("magnitude-0+bitmask")
    assert result.bitmask == []
    assert form_of(result) == "plain"


def test_a_layer_that_is_packed_is_not_stored_as_a_bitmask_too(saved):
    result, directory = saved("wanda-50,include=*mlp*+rtn-int4,include=*down_proj+bitmask")
    assert set(result.bitmask) == set(result.pruned) - set(result.quantized)
    held = tensors(directory)
    for name in result.quantized:
        assert f"{name}.weight_packed" in held
        assert f"{name}.weight_bitmask" not in held


@pytest.mark.parametrize("name", ["mixtral", "llama4", "gpt_oss", "jetmoe"])
def test_experts_of_one_parameter_are_stored_as_one_bitmask(name, tokenizer, tmp_path):
    model = ARCHITECTURES[name].make()
    result = compress(model, Recipe.parse("magnitude-50+bitmask"))
    assert set(result.bitmask) == set(result.pruned)
    assert save(result, tokenizer, tmp_path / "out") == METHOD
    held = tensors(tmp_path / "out")
    for layer in all_layers(model).values():
        if layer.expert is not None:
            assert held[f"{layer.stored_name}_bitmask"].nbytes == -(-layer.stored.numel() // 8)
            values = held[f"{layer.stored_name}_values"]
            assert len(values) == int((layer.stored != 0).sum())
    loaded = load(tmp_path / "out", type(model)).state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


def test_a_bitmask_of_some_experts_alone_is_not_made_and_told():
    result = compress(
        ARCHITECTURES["mixtral"].make(), Recipe.parse("magnitude-50+bitmask,exclude=*down_proj.1")
    )
    assert not any("down_proj" in name for name in result.bitmask)
    assert any("gate_up_proj" in name for name in result.bitmask)
    (note,) = result.notes
    assert "layers.0.mlp.experts.down_proj" in note
    assert "only some of them are chosen" in note


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("text", ["rtn-int4,symmetric=false", "log-int4", "wanda-50+bitmask",
                                  "svd-50+rtn-int8"])  # fmt: skip
def test_half_precision_loads_bit_by_bit(tiny_llama, batches, tokenizer, tmp_path, dtype, text):
    result = compress(tiny_llama.to(dtype), Recipe.parse(text), batches)
    save(result, tokenizer, tmp_path / "out")
    loaded = load(tmp_path / "out", AutoModelForCausalLM, dtype="auto")
    own = loaded.state_dict()
    for name, tensor in result.model.state_dict().items():
        assert own[name].dtype == tensor.dtype
        assert torch.equal(own[name], tensor)


def test_saving_leaves_the_model_as_it_was(saved, batches):
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
    ("settings", "complaint"),
    [
        ({"version": 2}, "version 2 of the format"),
        ({"code": "import os"}, "with code"),
        ({"attributes": {"model.layers.0.self_attn": {"forward": 1}}}, "is no size of the module"),
        ({"attributes": {"model.layers.0.self_attn": {"head_dim": "8"}}}, "is no size of the"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(saved, settings, complaint):
    _, directory = saved("svd-50")
    change(directory, **settings)
    with pytest.raises(Exception, match=complaint):
        load(directory, AutoModelForCausalLM)


Q_PROJ = "model.layers.0.self_attn.q_proj"


def tamper(directory, changes):
    """Changes how the checkpoint says that a weight is stored."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["weights"][f"{Q_PROJ}.weight"] |= changes
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"transposed": True}, "wrong transposed"),
        ({"transposed": 0}, "wrong transposed"),
        ({"shape": [16, 64]}, "wrong shape"),
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
def test_a_stored_form_that_does_not_fit_is_refused(saved, changes, complaint):
    _, directory = saved("rtn-int4,symmetric=false")
    tamper(directory, changes)
    with pytest.raises(CompressionError, match=f"{Q_PROJ}.*{complaint}"):
        load(directory, AutoModelForCausalLM)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"activations": {"model.norm": "int8"}}, "inputs cannot be rounded"),
        ({"activations": {Q_PROJ: "int7"}}, "inputs cannot be rounded"),
        ({"activations": [Q_PROJ]}, "activations is not a table"),
        ({"factored": {Q_PROJ: 10**9}}, "is no rank"),
        ({"factored": {"model.nothing": 1}}, "which the model lacks"),
        ({"resized": {Q_PROJ: [10**9, 32]}}, "is no smaller"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(saved, settings, complaint):
    _, directory = saved("rtn-int4,symmetric=false")
    change(directory, **settings)
    with pytest.raises(CompressionError, match=complaint):
        load(directory, AutoModelForCausalLM)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("scales", lambda t: -t),
        ("scales", lambda t: t.int()),
        ("zeros", lambda t: torch.full_like(t, 255)),
    ],
)
def test_stored_tensors_that_do_not_fit_are_refused(saved, part, other):
    from safetensors.torch import save_file

    _, directory = saved("rtn-int4,symmetric=false")
    held = tensors(directory)
    key = f"{Q_PROJ}.weight_{part}"
    held[key] = other(held[key])
    save_file(held, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(CompressionError, match=f"{Q_PROJ}.weight"):
        load(directory, AutoModelForCausalLM)


def test_a_tensor_that_is_missing_is_an_error(saved):
    from safetensors.torch import save_file

    _, directory = saved("rtn-int4,symmetric=false")
    held = tensors(directory)
    held[f"{Q_PROJ}.weight_scales"] = held.pop(f"{Q_PROJ}.weight_scales")[:, :0]
    save_file(held, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(Exception, match=r"weight_scales|ignore_mismatched_sizes"):
        load(directory, AutoModelForCausalLM)
