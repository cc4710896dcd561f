import copy
from dataclasses import replace

import pytest
import torch

from compression_gates.compression.apply import compress
from compression_gates.compression.calibration.driver import visit_groups
from compression_gates.compression.errors import CompressionError, RecipeError
from compression_gates.compression.model.layers import backbone_layers
from compression_gates.compression.pruning.patterns import NofM, Unstructured
from compression_gates.compression.pruning.sparsegpt import sparsegpt
from compression_gates.compression.pruning.wanda import wanda
from compression_gates.compression.quantization.grids import Uniform, round_to_nearest
from compression_gates.compression.recipe import Recipe

PRUNING = ["magnitude-50", "wanda-50", "sparsegpt-50"]
PATTERNS = ["magnitude-2:4", "wanda-2:4", "sparsegpt-4:8"]


def apply(model, text, batches=()):
    return compress(model, Recipe.parse(text), batches)


@pytest.mark.parametrize("text", PRUNING)
def test_every_layer_reaches_its_sparsity_and_nothing_else_changes(tiny_llama, batches, text):
    before = copy.deepcopy(tiny_llama.state_dict())
    result = apply(tiny_llama, text, batches)
    touched = {f"{name}.weight" for name in result.layers}
    for name, tensor in tiny_llama.state_dict().items():
        if name in touched:
            assert int((tensor == 0).sum()) == tensor.numel() // 2
        else:
            assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("text", PATTERNS)
def test_patterns_hold_in_every_group(tiny_llama, batches, text):
    result = apply(tiny_llama, text, batches)
    n, m = result.recipe.steps[0]["pattern"]
    for name in result.layers:
        weight = tiny_llama.get_submodule(name).weight
        assert ((weight != 0).view(len(weight), -1, m).sum(-1) <= n).all()


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_sparsity_of_zero_and_one(tiny_llama, batches, method):
    before = copy.deepcopy(tiny_llama.state_dict())
    apply(tiny_llama, f"{method}-0", batches)
    assert all(torch.equal(t, before[name]) for name, t in tiny_llama.state_dict().items())
    result = apply(tiny_llama, f"{method}-100", batches)
    assert all(not tiny_llama.get_submodule(name).weight.any() for name in result.layers)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_blocks_are_pruned_sequentially(tiny_llama, batches, method):
    expected = copy.deepcopy(tiny_llama)
    layers = backbone_layers(expected)
    with torch.no_grad():
        for block in visit_groups(expected, layers, batches, with_products=True):
            for name, seen in block.items():
                weight = layers[name].weight
                if method == "wanda":
                    weight.copy_(wanda(weight, seen.norm, Unstructured(0.5)))
                else:
                    solved = sparsegpt(weight, seen.hessian, Unstructured(0.5))
                    least = weight.abs().flatten().argsort()[: weight.numel() // 2]
                    smallest = weight.flatten().index_fill(0, least, 0.0).view_as(weight)
                    errors = [
                        torch.trace((after - weight) @ seen.hessian @ (after - weight).T)
                        for after in (solved, smallest)
                    ]
                    weight.copy_(solved if errors[0] <= errors[1] else smallest)
    apply(tiny_llama, f"{method}-50", batches)
    for name, tensor in expected.state_dict().items():
        assert torch.allclose(tiny_llama.state_dict()[name], tensor)


@pytest.mark.parametrize("kind", ["bert", "albert", "roberta"])
@pytest.mark.parametrize("text", ["wanda-50", "sparsegpt-2:4", "rtn-int8"])
def test_encoders(tiny_encoder, batches, kind, text):
    model = tiny_encoder(kind)
    apply(model, text, batches)
    with torch.no_grad():
        assert model(**batches[0]).logits.isfinite().all()


def test_tied_embeddings_are_not_changed(tiny_llama, batches):
    before = tiny_llama.get_input_embeddings().weight.clone()
    apply(tiny_llama, "wanda-50", batches)
    assert torch.equal(tiny_llama.get_input_embeddings().weight, before)
    assert tiny_llama.lm_head.weight is tiny_llama.get_input_embeddings().weight


def test_rounded_weights_equal_their_codes(tiny_llama):
    result = apply(tiny_llama, "rtn-int8")
    assert set(result.quantized) == set(result.layers)
    for name, quantized in result.quantized.items():
        assert torch.equal(tiny_llama.get_submodule(name).weight, quantized.dequantized())


def test_codes_outside_the_grid_are_an_error(tiny_llama, monkeypatch):
    def wrong(weight, *options, **more):
        rounded = round_to_nearest(weight, Uniform(8))
        return replace(rounded, codes=rounded.codes * 2)

    monkeypatch.setattr(
        "compression_gates.compression.quantization.nearest.round_to_nearest", wrong
    )
    with pytest.raises(CompressionError, match="a code is outside the range of 8 bits"):
        apply(tiny_llama, "rtn-int8")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("text", ["rtn-int8", "wanda-50", "sparsegpt-50"])
def test_half_precision(tiny_llama, batches, dtype, text):
    model = tiny_llama.to(dtype)
    apply(model, text, batches)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_tied_head_is_rejected(tiny_llama):
    recipe = Recipe.parse({"method": "rtn", "bits": 8, "include": ["lm_head"]})
    with pytest.raises(RecipeError, match="lm_head: it is tied to an embedding"):
        compress(tiny_llama, recipe)


def test_zero_features(tiny_llama, batches):
    with torch.no_grad():
        tiny_llama.model.layers[0].input_layernorm.weight[5] = 0.0
    for text in ("wanda-50", "sparsegpt-50"):
        model = copy.deepcopy(tiny_llama)
        apply(model, text, batches)
        with torch.no_grad():
            assert model(**batches[0]).logits.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_their_layer(tiny_llama, value):
    with torch.no_grad():
        tiny_llama.model.layers[1].mlp.up_proj.weight[0, 0] = value
    with pytest.raises(CompressionError, match=r"layers\.1\.mlp\.up_proj\.weight holds"):
        apply(tiny_llama, "magnitude-50")


def test_indivisible_width_names_its_layer(tiny_llama):
    before = copy.deepcopy(tiny_llama.state_dict())
    with pytest.raises(RecipeError, match=r"q_proj: pattern 3:5: an input width of 32"):
        apply(tiny_llama, "magnitude-3:5")
    assert all(torch.equal(t, before[name]) for name, t in tiny_llama.state_dict().items())


def test_a_layer_that_misses_its_sparsity_is_an_error(tiny_llama, batches, monkeypatch):
    monkeypatch.setattr(
        "compression_gates.compression.pruning.wanda.wanda", lambda weight, norm, pattern: weight
    )
    with pytest.raises(CompressionError, match="left 0 zeros, but 512"):
        apply(tiny_llama, "wanda-50", batches)


def test_a_group_that_misses_its_pattern_is_an_error(tiny_llama, batches, monkeypatch):
    def halves(weight, norm, pattern):
        weight = weight.clone()
        weight[:, : weight.shape[1] // 2] = 0.0
        return weight

    monkeypatch.setattr("compression_gates.compression.pruning.wanda.wanda", halves)
    with pytest.raises(CompressionError, match="a group keeps more weights than 2:4"):
        apply(tiny_llama, "wanda-2:4", batches)


def test_no_calibration_text_and_training_mode_are_errors(tiny_llama):
    with pytest.raises(CompressionError, match="at least one batch"):
        apply(tiny_llama, "wanda-50")
    with pytest.raises(CompressionError, match=r"call model\.eval"):
        apply(tiny_llama.train(), "magnitude-50")


def test_expected_zeros_of_a_pattern():
    assert NofM(2, 4).expected_zeros(3, 8, per_row=True) == 12
