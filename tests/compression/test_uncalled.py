"""Layers whose weight a model reads itself, or that take no part: refused before any change."""

import pytest
import torch

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.recipe import Recipe

LEFT_OUT = {
    "mamba": "exclude=*.dt_proj",
    "jamba": "exclude=*.dt_proj",
    "led": "exclude=*.query_global|*.key_global|*.value_global",
}


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("text", ["wanda-50", "magnitude-50,exclude={}+gptq-int4", "svdllm-50"])
def test_what_cannot_be_seen_is_refused_before_any_change_and_can_be_excluded(name, text):
    model = ARCHITECTURES[name].make()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    batches = calibration(model)
    others = LEFT_OUT[name].removeprefix("exclude=")
    text = text.format(others)
    if name == "jamba" and "svdllm" in text:
        text += ",include=*mamba*"  # experts cannot be factored
    with pytest.raises(RecipeError, match="no calibration input reached it") as caught:
        compress(model, Recipe.parse(text), batches)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    assert LEFT_OUT[name] in str(caught.value)
    compress(model, Recipe.parse(f"{text},{LEFT_OUT[name]}"), batches)


@pytest.mark.parametrize("text", ["rtn-int8,activations=true", "fp8,activations=true"])
def test_inputs_that_cannot_be_rounded_are_refused(text):
    with pytest.raises(RecipeError, match=r"dt_proj: no calibration input reached it"):
        compress(ARCHITECTURES["mamba"].make(), Recipe.parse(text))
