"""Steps that would undo each other, and steps that go together."""

import copy

import pytest
import torch

from compression.apply import compress
from compression.errors import RecipeError
from compression.layers import all_layers
from compression.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rtn-int8+wanda-50", "wanda-50 after rtn-int8 takes the weights off their grid"),
        ("rtn-int8+gptq-int4", "takes the weights off their grid"),
        ("rtn-int8+smoothquant", "takes the weights off their grid"),
        ("wanda-2:4+svd-50", "fills its zeros"),
        ("wanda-50+sparsegpt-50", "prunes a layer twice"),
        ("wanda-2:4+ffn-50", "breaks its groups"),
        ("wanda-50+bitmask+rtn-int4", "is too late: what is stored comes last"),
    ],
)
def test_a_step_that_undoes_another_is_refused_before_anything_changes(
    tiny_llama, batches, text, complaint
):
    before = copy.deepcopy(tiny_llama.state_dict())
    with pytest.raises(RecipeError, match=complaint):
        compress(tiny_llama, Recipe.parse(text), batches)
    assert all(torch.equal(t, before[name]) for name, t in tiny_llama.state_dict().items())


def test_steps_on_other_layers_do_not_meet(tiny_llama, batches):
    text = "wanda-2:4,include=*attn*+svd-40,include=*mlp*+rtn-int8,include=*attn*"
    result = compress(tiny_llama, Recipe.parse(text), batches)
    assert all("attn" in name for name in (*result.pruned, *result.quantized))
    assert all("mlp" in name for name in result.layout.factored)
    assert result.layout.factored


@pytest.mark.parametrize(
    "later", ["rtn-int4", "rtn-int4,symmetric=false", "gptq-int4", "gptq-int3,act_order=true",
              "lsq-int4,iterations=5", "log-int4"],
)  # fmt: skip
def test_quantization_keeps_a_mask(tiny_llama, batches, later):
    result = compress(tiny_llama, Recipe.parse(f"sparsegpt-2:4+{later}"), batches)
    for name in result.pruned:
        weight = all_layers(tiny_llama)[name].weight
        assert ((weight != 0).unflatten(1, (-1, 4)).sum(-1) <= 2).all()


def test_factors_can_be_pruned_and_quantized(tiny_llama, batches):
    result = compress(tiny_llama, Recipe.parse("svd-60+wanda-50+gptq-int8"), batches)
    assert any(name.endswith(".first") for name in result.pruned)
    assert set(result.pruned) == set(result.quantized)


def test_a_model_that_is_compressed_already_is_refused(tiny_llama):
    tiny_llama.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(RecipeError, match="compressed already"):
        compress(tiny_llama, Recipe.parse("rtn-int8"))
