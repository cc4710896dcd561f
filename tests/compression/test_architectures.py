"""Methods on a small random model of every architecture, saved and loaded again.

Methods that store weights in different forms run on all architectures that differ, and each method
on four of them; ``--full`` runs every method on every architecture.
"""

import pytest
import torch

from compression_gates.compression.apply import compress
from compression_gates.compression.calibration.driver import collect
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.capture import one_by_one
from compression_gates.compression.model.layers import all_layers, backbone_layers
from compression_gates.compression.recipe import Recipe
from compression_gates.fixtures.world import tokenizers as vocabulary
from tests.compression import zoo

RECIPES = [
    "rtn-int4,group=16", "rtn-int3,symmetric=false", "rtn-int8,activations=true", "log-int4",
    "fp8", "fp8,scale=tensor,activations=true",
    "gptq-int4,act_order=true", "lsq-int3,iterations=3", "magnitude-50,scope=global",
    "wanda-50,allocation=owl", "sparsegpt-2:4", "taylor-50", "movement-50,steps=3",
    "svd-50", "svdllm-50", "wanda-2:4+gptq-int4", "wanda-50+bitmask", "svd-60+rtn-int8",
    "distill-1layers,steps=2,loss=labels|response|layerwise",
]  # fmt: skip
EVERYWHERE = {
    "gptq-int4,act_order=true", "svdllm-50",
    "distill-1layers,steps=2,loss=labels|response|layerwise",
}  # fmt: skip
"""Recipes that store codes, factors, and fewer layers."""
WHOLE = ("llama", "mixtral", "bert", "t5")
"""A decoder, a mixture of experts, an encoder, and an encoder-decoder."""
TRANSPOSED = ("gpt2", "wanda-50+bitmask")
"""Zeros of weights that are stored the other way round."""
REFUSED = {
    ("mixtral", "rtn-int8,activations=true"): "the inputs of an expert cannot be rounded",
    ("mixtral", "fp8,scale=tensor,activations=true"): "the inputs of an expert cannot be rounded",
    ("mixtral", "movement-50,steps=3"): r"exclude=\*\.experts\.\*",
    ("mixtral", "svd-50"): r"exclude=\*\.experts\.\*",
    ("mixtral", "svdllm-50"): r"exclude=\*\.experts\.\*",
    ("mixtral", "svd-60+rtn-int8"): r"exclude=\*\.experts\.\*",
}
"""What cannot work on an architecture, and what it says."""


def outputs(model, name, batch):
    keep = batch if name == "t5" else {k: v for k, v in batch.items() if k != "labels"}
    with torch.no_grad():
        return model(**keep).logits


CASES = [
    pytest.param(
        name,
        text,
        marks=[]
        if name in WHOLE
        or (text in EVERYWHERE and name not in zoo.SIMILAR)
        or (name, text) == TRANSPOSED
        else pytest.mark.full,
    )
    for name in zoo.CONFIGS
    for text in RECIPES
]


@pytest.mark.parametrize(("name", "text"), CASES)
def test_a_compressed_model_is_saved_and_loaded_again(name, text, batches, tmp_path):
    model, data = zoo.make(name), zoo.inputs(name, batches)
    recipe = Recipe.parse(text)
    if (name, text) in REFUSED:
        with pytest.raises(RecipeError, match=REFUSED[name, text]) as caught:
            compress(model, recipe, data)
        assert "layers.0" in str(caught.value)
        return
    before = outputs(model, name, data[0])
    result = compress(model, recipe, data)
    after = outputs(result.model, name, data[0])
    assert after.isfinite().all()
    assert not torch.equal(after, before)
    for layer in result.pruned:
        assert (all_layers(result.model)[layer].weight == 0).any()
    save(result, vocabulary.causal(64), tmp_path / "out")
    loaded = zoo.auto(name).from_pretrained(tmp_path / "out")
    again = outputs(loaded, name, data[0])
    assert torch.equal(again, after)
    own = loaded.state_dict()
    for key, tensor in result.model.state_dict().items():
        assert torch.equal(own[key], tensor), key


@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_statistics_are_those_of_inputs_recorded_by_hand(name, batches):
    """Of modules, by hooks on one text at a time without padding; experts by their own test."""
    model, data = zoo.make(name), zoo.inputs(name, batches)
    layers = {n: layer for n, layer in backbone_layers(model).items() if layer.expert is None}
    found = collect(model, layers, data, with_products=True)
    rows = [row for batch in data for row in one_by_one(batch, name == "t5")]
    for key, layer in layers.items():
        seen = []
        with layer.module.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(inputs[0].flatten(0, -2))
        ):
            for row in rows:
                outputs(model, name, row)
        inputs = torch.cat(seen).double()
        if "pos_key" not in key and name != "deberta_v2":
            assert found[key].tokens == len(inputs)
            assert torch.allclose(found[key].norm, inputs.norm(dim=0), rtol=1e-4)
            assert torch.allclose(
                found[key].products.double(), inputs.T @ inputs, rtol=1e-3, atol=1e-4
            )


def test_conv1d_is_stored_the_other_way_round():
    model = zoo.make("gpt2")
    layer = backbone_layers(model)["transformer.h.0.mlp.c_fc"]
    assert (layer.out_features, layer.in_features) == (128, 32)
    with torch.no_grad():
        layer.weight[3, 5] = 7.0
    assert model.transformer.h[0].mlp.c_fc.weight[5, 3] == 7.0


def test_each_expert_has_the_statistics_of_the_tokens_routed_to_it(batches):
    model = zoo.make("mixtral")
    layers = {n: layer for n, layer in backbone_layers(model).items() if layer.expert is not None}
    found = collect(model, layers, batches, with_products=True)
    seen = {number: [] for number in range(4)}
    experts = model.model.layers[1].mlp.experts

    def record(module, inputs):
        hidden, chosen, _ = inputs
        for token, numbers in zip(hidden, chosen, strict=True):
            for number in numbers.tolist():
                seen[number].append(token)

    with experts.register_forward_pre_hook(record), torch.no_grad():
        for batch in batches:
            for row in one_by_one(batch, False):
                model(**row)
    assert sum(map(len, seen.values())) > 0
    for number, tokens in seen.items():
        statistics = found[f"model.layers.1.mlp.experts.gate_up_proj.{number}"]
        assert statistics.tokens == len(tokens)
        if tokens:
            inputs = torch.stack(tokens).double()
            assert torch.allclose(statistics.products.double(), inputs.T @ inputs, rtol=1e-3)


def test_an_expert_that_never_fired_is_named_and_still_compressed(batches):
    batches = [{"input_ids": torch.tensor([[7]]), "attention_mask": torch.tensor([[1]])}]
    for text in ("sparsegpt-50", "gptq-int4", "wanda-50", "lsq-int4,iterations=2"):
        fresh = zoo.make("mixtral")
        silent = _never_fired(fresh, batches)
        assert len(silent) == 2 * 2 * 2  # two experts of four, two weights each, two layers
        result = compress(fresh, Recipe.parse(text), batches)
        assert any("no calibration token was routed to 4 experts" in n for n in result.notes)
        for name in silent:
            weight = all_layers(fresh)[name].weight
            assert weight.isfinite().all()
            assert weight.any()
        assert set(silent) <= set(result.layers)


def _never_fired(model, batches):
    import warnings

    layers = backbone_layers(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect(model, layers, batches, with_products=False)
    return [name for name, seen in found.items() if not seen.tokens]
