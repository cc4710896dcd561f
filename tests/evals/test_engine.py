"""How stored forms run on an engine, and which are not run."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from compression_gates.evals.checkpoints.checkpoint import open_checkpoint
from compression_gates.evals.models.engine import prepare, stored_tensors, weight_bytes
from compression_gates.evals.models.kernel_layers import Int8InputsCpu, KernelLinear
from compression_gates.evals.models.loading import load
from compression_gates.evals.scoring.peak_memory import LiveTensors, peak_bytes
from compression_gates.fixtures.suite.own_formats import OWN_FORMATS
from tests.end_to_end import foreign

IDS = torch.arange(3, 35).view(2, 16)


def made(checkpoint, recipe, directory):
    """The checkpoint of a recipe, loaded."""
    from compression_gates.compression.apply import compress
    from compression_gates.compression.checkpoint.saving import save
    from compression_gates.compression.recipe import Recipe

    base = load(checkpoint)
    save(compress(base.model, Recipe.parse(recipe), lambda step: []), base.tokenizer, directory)
    return load(open_checkpoint(directory))


def run(loaded, engine="eager"):
    return prepare(loaded, engine, IDS, OWN_FORMATS)


def logits(loaded) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model(**loaded.inputs(IDS)).logits


RECIPES = {
    "rtn-int8": "int8 weights: aten::mm",
    "rtn-int8,activations=true": "int8 weights and int8 inputs: onednn::qlinear_pointwise",
    "svd-75 + rtn-int8": "int8 weights: aten::mm",
    "svd-50": "dense",
    "magnitude-50": "dense",
    "magnitude-2:4": "dense; torch has no kernel for 2:4 zeros here",
    "rtn-int4,group=16": "torch has no kernel for int4 weights in groups of 16 in float32 on this",
    "rtn-int8,group=16": "torch has no kernel for int8 weights in groups of 16 in float32 on this",
    "rtn-int4,symmetric=false": "torch has no kernel for int4 weights with zero points in float32",
    "log-int4": "torch has no kernel for int4 weights on a grid of powers of two",
    "fp8": "torch has no kernel for float8 weights in float32",
    "fp8,activations=true": "torch has no kernel for float8 weights and float8 inputs in float32",
    "magnitude-50 + bitmask": "torch has no kernel for weights stored as bitmasks",
}
"""The kernel of each recipe on a CPU, or the reason why it is not run."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_kernels_of_recipes(recipe, causal_checkpoint, tmp_path):
    loaded = made(causal_checkpoint(), recipe, tmp_path / "made")
    running = run(loaded)
    expected = RECIPES[recipe]
    if expected.startswith("torch has no kernel"):
        assert running.reason.startswith(expected)
        assert running.kernel == ""
        return
    assert running.reason == ""
    assert running.kernel.startswith(expected)
    unpacked = logits(loaded)
    # Inputs in the middle between two codes may be rounded either way.
    tolerance = 0.05 if "activations" in recipe else 1e-5
    assert (logits(running.loaded) - unpacked).norm() <= tolerance * unpacked.norm()


def test_the_loaded_model_is_not_changed(causal_checkpoint, tmp_path):
    loaded = made(causal_checkpoint(), "rtn-int8", tmp_path / "made")
    before, modules = logits(loaded), [type(module) for module in loaded.model.modules()]
    running = run(loaded)
    assert any(isinstance(module, KernelLinear) for module in running.loaded.model.modules())
    assert [type(module) for module in loaded.model.modules()] == modules
    assert torch.equal(logits(loaded), before)
    assert run(loaded) is running  # prepared once
    shared = running.loaded.model.get_input_embeddings().weight
    assert shared.data_ptr() == loaded.model.get_input_embeddings().weight.data_ptr()


def test_a_kernel_that_is_wrong_is_not_used(causal_checkpoint, tmp_path, monkeypatch):
    loaded = made(causal_checkpoint(), "rtn-int8,activations=true", tmp_path / "made")
    right = Int8InputsCpu.packed_product
    monkeypatch.setattr(Int8InputsCpu, "packed_product", lambda self, x: 1.01 * right(self, x))
    running = run(loaded)
    assert running.reason.startswith("onednn::qlinear_pointwise is wrong by 1.0% in layer ")
    assert running.reason.endswith("q_proj, so it is not used")


def test_a_kernel_that_the_cpu_lacks_is_not_used(causal_checkpoint, tmp_path, monkeypatch):
    def refuse(self, codes):
        raise RuntimeError("could not create a primitive\nand more")

    loaded = made(causal_checkpoint(), "rtn-int8,activations=true", tmp_path / "made")
    monkeypatch.setattr(Int8InputsCpu, "packed_product", refuse)
    reason = "its kernel does not run here: RuntimeError: could not create a primitive"
    assert run(loaded).reason == reason


def test_memory_that_runs_out_is_not_a_missing_kernel(causal_checkpoint, tmp_path, monkeypatch):
    def exhaust(self, codes):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 PB")

    loaded = made(causal_checkpoint(), "rtn-int8,activations=true", tmp_path / "made")
    with monkeypatch.context() as patch:
        patch.setattr(Int8InputsCpu, "packed_product", exhaust)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            run(loaded)
    assert run(loaded).reason == ""


FOREIGN = {
    "torchao": (foreign.torchao, "int8 weights: aten::mm"),
    "bitsandbytes": (foreign.bitsandbytes, "int8 weights and int8 inputs: onednn"),
    "compressed_tensors": (
        foreign.compressed_tensors("W8A8"), "int8 weights and int8 inputs: onednn",
    ),
}  # fmt: skip


@pytest.mark.parametrize("library", FOREIGN)
def test_kernels_of_other_libraries(library, causal_checkpoint, tmp_path):
    """Their own computation in eager mode is the reference."""
    pytest.importorskip(library)
    make, expected = FOREIGN[library]
    loaded = load(open_checkpoint(make(causal_checkpoint().path, tmp_path / "made")))
    running = run(loaded)
    assert running.reason == ""
    assert running.kernel.startswith(expected)
    theirs = logits(loaded)
    assert (logits(running.loaded) - theirs).norm() <= 0.05 * theirs.norm()


def test_activations_that_are_rounded_in_python(causal_checkpoint, tmp_path):
    """The project's own format may round inputs and keep the weights plain."""
    base = causal_checkpoint()
    shutil.copytree(base.path, tmp_path / "rounded")
    config = tmp_path / "rounded" / "config.json"
    described = json.loads(config.read_text())
    described["quantization_config"] = {
        "quant_method": "compression-gates", "version": 1,
        "activations": {"model.layers.0.mlp.up_proj": "int8"},
    }  # fmt: skip
    config.write_text(json.dumps(described))
    OWN_FORMATS[0].register()
    reason = run(load(open_checkpoint(tmp_path / "rounded"))).reason
    assert reason == "torch has no kernel for int8 inputs with plain weights"


def test_an_adapter_is_run_as_its_base_is(causal_checkpoint):
    """Merged into plain weights it is dense; merged into unpacked ones it is not run."""
    loaded, other = load(causal_checkpoint()), load(causal_checkpoint())
    plain = replace(loaded.checkpoint, form="lora", base=loaded.checkpoint)
    assert run(replace(loaded, checkpoint=plain)).kernel == "dense"
    file = loaded.checkpoint.path / "model.safetensors"
    tensors = load_file(file)
    tensors["codes"] = torch.zeros(4, 4, dtype=torch.int8)
    save_file(tensors, file, {"format": "pt"})
    packed = replace(loaded.checkpoint, form="some-codes")
    merged = replace(packed, form="lora on some-codes", base=packed)
    assert run(replace(other, checkpoint=merged)).reason == (
        "its weights are unpacked on loading, so no kernel for some-codes runs here"
    )


def test_weights_that_only_their_library_runs(causal_checkpoint):
    loaded = load(causal_checkpoint())
    layer = loaded.model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    running = run(replace(loaded, checkpoint=replace(loaded.checkpoint, form="quanto")))
    assert (running.kernel, running.reason) == ("the kernels of quanto", "")


def test_live_tensors_are_counted_until_they_are_freed():
    with torch.inference_mode(), LiveTensors([]) as live:
        first = torch.ones(1000)
        view = first[:10]
        del first  # its storage is still in use
        second = torch.ones(500)
        del view
        third = torch.ones(100)
        del second, third
    assert live.peak == 1500 * 4
    assert live.current == 0


def test_int8_weights_take_a_quarter_of_the_memory(causal_checkpoint, tmp_path):
    base = causal_checkpoint()
    plain = run(load(base))
    packed = run(made(base, "rtn-int8", tmp_path / "made"))
    linear = sum(
        module.weight.nbytes
        for name, module in plain.loaded.model.named_modules()
        if name.endswith("_proj")
    )
    scales = sum(
        4 * module.out_features
        for name, module in plain.loaded.model.named_modules()
        if name.endswith("_proj")
    )
    saved = weight_bytes(plain.loaded.model) - weight_bytes(packed.loaded.model)
    assert saved == linear * 3 // 4 - scales
    peaks = [peak_bytes(running, IDS) for running in (plain, packed)]
    assert peaks[0] > weight_bytes(plain.loaded.model)
    assert peaks[0] > peaks[1] > weight_bytes(packed.loaded.model)
    assert peaks == [peak_bytes(running, IDS) for running in (plain, packed)]


def test_the_codes_of_a_kernel_are_counted_once(causal_checkpoint, tmp_path):
    base = causal_checkpoint()
    packed = run(made(base, "rtn-int8", tmp_path / "made")).eager.model
    codes = sum(
        module.quantized.codes.nbytes
        for module in packed.modules()
        if isinstance(module, KernelLinear)
    )
    one = IDS[:1, :1]
    with torch.inference_mode(), LiveTensors(stored_tensors(packed)) as live:
        packed(input_ids=one)
    # A pass over one token converts one layer at a time, and holds few activations beside it.
    largest = max(m.quantized.codes.numel() for m in packed.modules() if hasattr(m, "quantized"))
    assert live.peak < codes + 4 * largest
    with torch.inference_mode(), LiveTensors(packed.state_dict().values()) as unaware:
        packed(input_ids=one)
    assert unaware.peak >= live.peak + codes - largest


@pytest.mark.full
@pytest.mark.parametrize("recipe", ["rtn-int8,activations=true", "rtn-int8"])
def test_compiled_models_compute_the_same(recipe, causal_checkpoint, tmp_path):
    from compression_gates.evals.data.items import DataSet, Text
    from compression_gates.evals.scoring.protocols import DecodeProtocol
    from compression_gates.evals.scoring.speed import time_decoding

    loaded = made(causal_checkpoint(num_hidden_layers=1), recipe, tmp_path / "made")
    compiled = run(loaded, "compiled")
    assert compiled.reason == ""
    expected = logits(run(loaded).loaded)
    assert (logits(compiled.loaded) - expected).norm() <= 0.05 * expected.norm()
    data = DataSet("texts", (Text("A cat sat on the mat and saw a dog.", 0),))
    protocol = DecodeProtocol(looks=(3,), batch_tokens=20, steps=3, rows=2, single=1)
    times = time_decoding(compiled.loaded, compiled.loaded, data, protocol)
    assert times["seconds"].shape == (3, 2)
