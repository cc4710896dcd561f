"""Conflicting and compatible steps."""

import copy

import pytest
import torch

from compression_gates.compression.apply import compress
from compression_gates.compression.errors import CompressionError, RecipeError
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.recipe import Recipe, Step
from tests.compression import zoo


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtn-int8+wanda-50", "wanda-50 after rtn-int8 moves quantized weights off their grid"),
        ("rtn-int8+gptq-int4", "moves quantized weights off their grid"),
        ("rtn-int8+smoothquant", "moves quantized weights off their grid"),
        ("wanda-2:4+svd-50", "fills the zeros"),
        ("wanda-50+sparsegpt-50", "prunes a layer twice"),
        ("wanda-2:4+ffn-50", "breaks the N:M groups"),
        ("wanda-50+bitmask+rtn-int4", "is not allowed: storage must be the last step"),
        (
            "rtn-int4,include=*mlp*+movement-50,include=*attn*",
            "moves quantized weights off their grid",
        ),
        ("rtn-int8,include=*mlp*+distill,steps=2", "moves quantized weights off their grid"),
        ("awq-int4+rtn-int3", "needs the bits that its scales are for"),
        ("awq-int4,group=16+rtn-int4", "needs the group"),
        ("awq-int4+rtn-int4,symmetric=false", "needs the symmetric"),
        ("magnitude-50,include=lm_head+bitmask,include=lm_head", "it is tied to an embedding"),
        ("rtn-int4,group=16,scale=tensor", "leave out scale=tensor"),
        ("wanda-50,outlier=3", "the setting outlier needs allocation=owl"),
    ],
)
def test_conflicting_steps_are_rejected_before_any_change(tiny_llama, batches, text, message):
    before = copy.deepcopy(tiny_llama.state_dict())
    with pytest.raises(RecipeError, match=message):
        compress(tiny_llama, Recipe.parse(text), batches)
    assert all(torch.equal(t, before[name]) for name, t in tiny_llama.state_dict().items())


def test_steps_on_disjoint_layers_do_not_conflict(tiny_llama, batches):
    text = "wanda-2:4,include=*attn*+svd-40,include=*mlp*+rtn-int8,include=*attn*"
    result = compress(tiny_llama, Recipe.parse(text), batches)
    assert all("attn" in name for name in (*result.pruned, *result.quantized))
    assert all("mlp" in name for name in result.layout.factored)
    assert result.layout.factored


@pytest.mark.parametrize(
    "later", ["rtn-int4", "rtn-int4,symmetric=false", "gptq-int4", "gptq-int3,act_order=true",
              "lsq-int4,iterations=5", "log-int4"],
)  # fmt: skip
def test_quantization_preserves_the_sparsity_pattern(tiny_llama, batches, later):
    result = compress(tiny_llama, Recipe.parse(f"sparsegpt-2:4+{later}"), batches)
    for name in result.pruned:
        weight = all_layers(tiny_llama)[name].weight
        assert ((weight != 0).unflatten(1, (-1, 4)).sum(-1) <= 2).all()


def test_factors_can_be_pruned_and_quantized(tiny_llama, batches):
    result = compress(tiny_llama, Recipe.parse("svd-60+wanda-50+gptq-int8"), batches)
    assert any(name.endswith(".first") for name in result.pruned)
    assert set(result.pruned) == set(result.quantized)


def test_compressed_models_are_rejected(tiny_llama):
    tiny_llama.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(RecipeError, match="already compressed"):
        compress(tiny_llama, Recipe.parse("rtn-int8"))


def test_training_after_quantization_is_rejected(tiny_encoder, batches):
    model = tiny_encoder("bert")
    with pytest.raises(RecipeError, match="moves quantized weights off their grid"):
        compress(model, Recipe.parse("rtn-int8,include=classifier+distill,steps=2"), batches)


@pytest.mark.parametrize("later", ["movement-50,steps=5,include=*attention*", "distill,steps=5"])
def test_zeros_of_other_layers_survive_training(tiny_encoder, batches, later):
    model = tiny_encoder("bert")
    pruned = "wanda-50,include=*intermediate*"
    compress(alone := tiny_encoder("bert"), Recipe.parse(pruned), batches)
    result = compress(model, Recipe.parse(f"{pruned}+{later}"), batches)
    for name, layer in all_layers(alone).items():
        if "intermediate" in name:
            assert name in result.pruned
            after = all_layers(result.model)[name].weight
            assert torch.equal(after == 0, layer.weight == 0)
            assert not torch.equal(after, layer.weight)


def test_zeros_are_preserved_in_the_student(batches):
    model = zoo.make("llama")
    last = len(model.model.layers) - 1
    recipe = f"wanda-50,include=*layers.{last}.mlp*+distill-1layers,steps=3"
    result = compress(model, Recipe.parse(recipe), batches)
    assert set(result.pruned) == {
        f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")
    }
    for name in result.pruned:
        weight = all_layers(result.model)[name].weight
        assert int((weight == 0).sum()) >= weight.numel() // 2


def test_movement_before_structured_pruning(tiny_llama, batches):
    before = tiny_llama.model.layers[0].self_attn.q_proj.weight.shape
    compress(tiny_llama, Recipe.parse("movement-50,steps=2+heads-50"), batches)
    after = tiny_llama.model.layers[0].self_attn.q_proj.weight
    assert after.shape[0] == before[0] // 2
    assert (after == 0).any()


@pytest.mark.parametrize(
    ("text", "note"),
    [("bitmask", "no layer has enough zeros"), ("awq-int4", "no quantization step follows"),
     ("ffn-100", "keeps one of its 48 units")],
)  # fmt: skip
def test_steps_without_effect_cause_a_note(tiny_llama, batches, text, note):
    result = compress(tiny_llama, Recipe.parse(text), batches)
    assert any(note in line for line in result.notes)


@pytest.mark.parametrize("text", ["svd-50", "distill-1layers,steps=1", "ffn-50"])
def test_global_rng_is_restored(tiny_llama, batches, text):
    before = torch.get_rng_state()
    compress(tiny_llama, Recipe.parse(text), batches)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_with_overflow_is_an_error(tiny_llama, batches):
    # In float16, whose largest number is 65504: one update, and no loss behind it to tell.
    given = {"learning_rate": 1e6, "loss": (("labels", 1.0),), "steps": 1}
    recipe = Recipe((Step("distill", tuple(given.items())),))
    with pytest.raises(CompressionError, match=r"holds values that are not finite after distill"):
        compress(tiny_llama.half(), recipe, batches)
