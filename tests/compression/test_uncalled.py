"""Layers that are not called: skipped with a note, or rejected if a pattern includes them."""

import pytest
import torch

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration, tokenizer
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.recipe import Recipe

LEFT_OUT = {
    "mamba": "exclude=*.dt_proj",
    "jamba": "exclude=*.dt_proj",
    "led": "exclude=*.query_global|*.key_global|*.value_global",
}


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("text", ["wanda-50", "gptq-int4", "svdllm-50", "svd-50", "taylor-50"])
def test_unreached_layers_are_skipped_with_a_note(name, text):
    model = ARCHITECTURES[name].make()
    before = {key: layer.weight.clone() for key, layer in all_layers(model).items()}
    if name == "jamba" and "svd" in text:
        text += ",exclude=*expert*"  # experts cannot be factored
    result = compress(model, Recipe.parse(text), calibration(model))
    notes = [note for note in result.notes if "no calibration input reaches" in note]
    endings = tuple(LEFT_OUT[name].removeprefix("exclude=").replace("*", "").split("|"))
    after = all_layers(model)
    if text == "taylor-50" and name != "led":  # a gradient reaches a weight that is read
        assert not notes
        assert any((after[key].weight == 0).any() for key in before if key.endswith(endings))
        return
    (note,) = notes
    left_out = [key for key in before if key.endswith(endings)]
    assert f"{len(left_out)} of " in note
    assert left_out[0] in note
    for key in left_out:
        assert torch.equal(after[key].weight, before[key]), key


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("text", ["wanda-50", "magnitude-50,exclude={}+gptq-int4", "svd-50"])
def test_included_unreached_layers_are_rejected_before_any_change(name, text):
    model = ARCHITECTURES[name].make()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    batches = calibration(model)
    others = LEFT_OUT[name].removeprefix("exclude=")
    text = text.format(others) + ",include=" + ("*mamba*" if name == "jamba" else "*")
    with pytest.raises(RecipeError, match="no calibration input reached it") as caught:
        compress(model, Recipe.parse(text), batches)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    assert LEFT_OUT[name] in str(caught.value)
    compress(model, Recipe.parse(f"{text},{LEFT_OUT[name]}".replace("=*,", "=*layers*,")), batches)


@pytest.mark.parametrize("text", ["wanda-50", "gptq-int4", "svd-50", "movement-50,steps=1"])
def test_no_reached_layer_is_an_error(monkeypatch, text):
    model = ARCHITECTURES["led"].make()
    for place in ("uncalled_layers", "unused_layers"):
        monkeypatch.setattr(
            f"compression_gates.compression.model.tracing.{place}",
            lambda model, layers: list(layers),
        )
    with pytest.raises(RecipeError, match="no calibration input reached it"):
        compress(model, Recipe.parse(text), calibration(model))


@pytest.mark.parametrize("text", ["rtn-int8,activations=true", "fp8,activations=true"])
def test_activation_quantization_of_unreached_layers(text):
    model = ARCHITECTURES["mamba"].make()
    result = compress(model, Recipe.parse(text))
    assert not any("dt_proj" in name for name in result.quantized)
    assert any("dt_proj" in note for note in result.notes)
    with pytest.raises(RecipeError, match=r"dt_proj: no calibration input reached it"):
        compress(ARCHITECTURES["mamba"].make(), Recipe.parse(f"{text},include=*_proj"))


RECIPES = ("wanda-50", "sparsegpt-50", "gptq-int4", "svdllm-50", "taylor-50,scope=global",
           "movement-50,steps=1", "rtn-int8,activations=true")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("gemma3_vision", text) for text in RECIPES),
        *(
            pytest.param("qwen2_vl", text, marks=[] if text in RECIPES[::3] else pytest.mark.full)
            for text in RECIPES
        ),
    ],
)
def test_image_encoders_are_skipped(name, text, tmp_path):
    model = ARCHITECTURES[name].make()
    tower = {k: layer.weight.clone() for k, layer in all_layers(model).items() if "vis" in k}
    result = compress(model, Recipe.parse(text), calibration(model))
    assert tower
    assert any(f"{len(tower)} of " in note for note in result.notes)
    if "movement" not in text:  # which trains all of the model
        for key, weight in tower.items():
            assert torch.equal(all_layers(model)[key].weight, weight), key
    assert not any("vis" in name for name in result.layers)
    save(result, tokenizer(), tmp_path / "out")
