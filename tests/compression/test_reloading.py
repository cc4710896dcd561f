"""A checkpoint is kept only if it loads as the compressed model."""

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
def test_own_format_is_used_if_compressed_tensors_does_not_load(name, tmp_path):
    """Their code reads the weight of a layer before or without calling it."""
    model = ARCHITECTURES[name].make()
    result = compress(model, Recipe.parse("rtn-int8"))
    assert save(result, tokenizer(), tmp_path / "out") == METHOD
    assert any("not stored as compressed-tensors" in note for note in result.notes)
    loaded = type(model).from_pretrained(tmp_path / "out").state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize("name", ["gptj", "gpt_neo", "codegen"])
def test_nonpersistent_buffers_are_initialized(name, tmp_path):
    """Position tables and masks in a module with a packed layer."""
    model = ARCHITECTURES[name].make()
    (batch, *_) = calibration(model)
    save(compress(model, Recipe.parse("log-int4")), tokenizer(), tmp_path / "out")
    loaded = type(model).from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_uncalled_layers_are_not_factored(tmp_path):
    model = ARCHITECTURES["mamba"].make()
    result = compress(model, Recipe.parse("svd-50"))
    save(result, tokenizer(), tmp_path / "out")
    assert [note for note in result.notes if "remain uncompressed" in note and "dt_proj" in note]
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


def gain(directory):
    file = directory / "model.safetensors"
    save_file(load_file(file) | {"model.norm.bias": torch.ones(32)}, file, {"format": "pt"})


def generate(**changes):
    def change(directory):
        path = directory / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flip, "other values for model.norm.weight"),
        (lose, "lacks model.layers.1.mlp.down_proj.weight"),
        (configure(num_hidden_layers=3), "lacks model.layers.2"),
        (
            configure(intermediate_size=40),
            "has shape (32, 48) for model.layers.0.mlp.down_proj.weight, but the model expects "
            "(32, 40)",
        ),
        (
            configure(rms_norm_eps=0.5),
            "config.json has rms_norm_eps = 0.5, but the model has",
        ),
        (gain, "has unexpected model.norm.bias"),
        (generate(eos_token_id=7), "generation_config.json has eos_token_id = 7, but the model"),
        (configure(hidden_act="nope"), "it does not load: KeyError"),
    ],
)
@pytest.mark.parametrize("text", ["magnitude-50", "rtn-int8", "svd-50"])
def test_damaged_checkpoints_are_not_kept(tmp_path, monkeypatch, text, change, reason):
    write = PreTrainedModel.save_pretrained

    def wrong(model, directory, **options):
        write(model, directory, **options)
        change(directory)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", wrong)
    result = compress(ARCHITECTURES["llama"].make(), Recipe.parse(text + ",exclude=*down_proj*"))
    with pytest.raises(CompressionError, match="was not kept") as caught:
        save(result, tokenizer(), tmp_path / "out")
    if text == "magnitude-50":  # other formats detect the damage themselves
        assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        dict(rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
        dict(hidden_act="gelu"),
        dict(rms_norm_eps=1e-3),
        dict(max_position_embeddings=48),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_changed_configuration_is_detected_in_every_dtype(tmp_path, monkeypatch, dtype, changes):
    with monkeypatch.context() as patch:
        write = PreTrainedModel.save_pretrained

        def wrong(model, directory, **options):
            write(model, directory, **options)
            configure(**changes)(directory)

        patch.setattr(PreTrainedModel, "save_pretrained", wrong)
        result = compress(ARCHITECTURES["llama"].make().to(dtype), Recipe.parse("magnitude-50"))
        (key,) = changes
        with pytest.raises(CompressionError, match=f"config.json has {key}"):
            save(result, tokenizer(), tmp_path / "out")
        assert not list(tmp_path.iterdir())
    assert save(result, tokenizer(), tmp_path / "out") == "plain"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_small_output_differences_are_detected(tmp_path, monkeypatch, dtype):
    """The configuration does not show the difference: a loaded norm has another epsilon."""
    result = compress(ARCHITECTURES["llama"].make().to(dtype), Recipe.parse("magnitude-50"))
    read = PreTrainedModel.from_pretrained.__func__

    def other(cls, *args, **options):
        loaded, report = read(cls, *args, **options)
        loaded.model.norm.variance_epsilon = 1e-2
        return loaded, report

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "from_pretrained", classmethod(other))
        with pytest.raises(CompressionError, match="its outputs differ"):
            save(result, tokenizer(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    save(result, tokenizer(), tmp_path / "out")
    assert not any("not compared" in note for note in result.notes)


@pytest.mark.parametrize(
    ("name", "text"),
    [("opt", "rtn-int8"), ("bert", "rtn-int8"), ("mobilebert", "fp8"), ("fnet", "fp8")],
)
def test_own_format_is_used_if_compressed_tensors_quantizes_inputs_differently(
    name, text, tmp_path
):
    """It quantizes each number of a two-dimensional input separately."""
    model = ARCHITECTURES[name].make()
    result = compress(model, Recipe.parse(f"{text},activations=true"))
    assert save(result, tokenizer(), tmp_path / "out") == METHOD
    assert any("compressed-tensors: its outputs differ" in note for note in result.notes)
    loaded = type(model).from_pretrained(tmp_path / "out").eval()
    (batch, *_) = calibration(model)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_models_that_do_not_run_are_kept_with_a_note(tmp_path):
    model = ARCHITECTURES["fnet"].make().to(torch.bfloat16)  # no Fourier transform in bfloat16
    result = compress(model, Recipe.parse("magnitude-50"))
    save(result, tokenizer(), tmp_path / "out")
    (note,) = (note for note in result.notes if "compared" in note)
    assert "outputs were not compared: " in note


def test_models_without_token_inputs_cause_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "compression_gates.compression.checkpoint.reloading.takes_tokens", lambda model: False
    )
    result = compress(ARCHITECTURES["llama"].make(), Recipe.parse("magnitude-50"))
    save(result, tokenizer(), tmp_path / "out")
    assert "not compared: the model does not accept tokens" in result.notes[0]


def test_failed_save_leaves_no_files(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("Some tensors share memory\nand more lines")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    result = compress(ARCHITECTURES["llama"].make(), Recipe.parse("magnitude-50"))
    with pytest.raises(CompressionError, match="RuntimeError: Some tensors share memory and more"):
        save(result, tokenizer(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
