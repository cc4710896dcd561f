"""Mixtures of experts: selection of routers, and notes on unrouted experts."""

import warnings

import pytest
import torch

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration
from compression_gates.compression.calibration.calls import stages, trace_calls
from compression_gates.compression.calibration.driver import blocks, collect, visit_groups
from compression_gates.compression.calibration.unrouted_experts import expert_of
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.capture import eager_experts, without_cache
from compression_gates.compression.model.layers import (
    all_layers,
    backbone_layers,
    routers,
    selected_layers,
)
from compression_gates.compression.recipe import Recipe

LINEAR_ROUTERS = {
    "phimoe": {"model.layers.{}.mlp.router"},
    "llama4": {"model.layers.{}.feed_forward.router"},
    "qwen2_moe": {"model.layers.{}.mlp.shared_expert_gate"},
    "jetmoe": {"model.layers.{}.mlp.router.layer",
               "model.layers.{}.self_attention.experts.router.layer"},
    "switch_transformers": {"encoder.block.1.layer.1.mlp.router.classifier",
                            "decoder.block.1.layer.2.mlp.router.classifier"},
    "nllb_moe": {"model.encoder.layers.1.ffn.router.classifier",
                 "model.decoder.layers.1.ffn.router.classifier"},
}  # fmt: skip
"""Routers that are linear layers; in other architectures they are parameters."""


@pytest.mark.parametrize("name", LINEAR_ROUTERS)
def test_routers_are_selected_only_by_their_own_patterns(name):
    model = ARCHITECTURES[name].make()
    expected = {path.format(n) for path in LINEAR_ROUTERS[name] for n in range(2)}
    assert routers(model) == expected
    before = {key: all_layers(model)[key].weight.clone() for key in expected}
    assert not expected & backbone_layers(model).keys()
    compress(model, Recipe.parse("rtn-int2"))
    for key, weight in before.items():
        assert torch.equal(all_layers(model)[key].weight, weight)
    whole = selected_layers(model, Recipe.parse("rtn-int8,include=*").steps[0])
    assert not expected & whole.keys()
    one = min(expected)
    for pattern in (one, "*shared_expert_gate" if name == "qwen2_moe" else "*router*"):
        step = Recipe.parse(f"magnitude-50,include=*0.*|{pattern}").steps[0]
        assert one in selected_layers(model, step)


@pytest.mark.parametrize("name", ["llama", "bart", "gemma2", "falcon", "xlnet", "mamba"])
def test_a_model_without_experts_has_no_router(name):
    assert not routers(ARCHITECTURES[name].make())


@pytest.mark.parametrize("name", ["mixtral", "llama4", "gpt_oss", "jetmoe", "switch_transformers"])
@pytest.mark.parametrize(
    ("text", "fallback"),
    [("gptq-int4", "were rounded to nearest"), ("sparsegpt-50", "were pruned by magnitude")],
)
def test_unrouted_experts_cause_one_note(name, text, fallback):
    model = ARCHITECTURES[name].make()
    ids = torch.tensor([[7, 2]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        batch["labels"] = ids
    result = compress(model, Recipe.parse(text), [batch])
    # Routers see the compressed layers before them, and are not affected by those after them.
    unrouted = _unrouted(model, [batch])
    assert unrouted
    (note,) = (note for note in result.notes if "no calibration token" in note)
    assert f"routed to {len(unrouted)} expert" in note
    if name == "jetmoe":  # four experts of attention and four of the FFN, two layers, one token
        assert len(unrouted) < 2 * (4 + 4)
    assert fallback in note
    mixture, number = min(unrouted)
    assert f"{mixture} {number}" in note
    naive = ARCHITECTURES[name].make()
    compress(naive, Recipe.parse("rtn-int4" if "gptq" in text else "magnitude-50,scope=row"))
    for key, layer in all_layers(model).items():
        if layer.routed and key in result.layers and expert_of(key) in unrouted:
            assert torch.equal(layer.weight, all_layers(naive)[key].weight), key


def _unrouted(model, batches):
    """Return mixture and number of each expert without tokens."""
    layers = {n: layer for n, layer in backbone_layers(model).items() if layer.routed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = collect(model, layers, batches, with_products=False)
    return {expert_of(name) for name, statistics in seen.items() if not statistics.tokens}


@pytest.mark.parametrize("name", ["mixtral", "llama4", "jetmoe", "switch_transformers"])
def test_expert_statistics_do_not_depend_on_other_layers(name):
    """A forward pass does not end before the experts of a later block."""
    model = ARCHITECTURES[name].make()
    batches = calibration(model)
    step = Recipe.parse("wanda-50,include=*expert*|*_linear*" if name == "jetmoe"
                        else "wanda-50,include=*.experts.*").steps[0]  # fmt: skip
    chosen = selected_layers(model, step)
    among = collect(model, backbone_layers(model), batches, with_products=False)
    for block in visit_groups(model, chosen, batches, with_products=False):
        for key, statistics in block.items():
            assert statistics.tokens == among[key].tokens
            assert torch.allclose(statistics.norm, among[key].norm)


@pytest.mark.parametrize(
    ("weight", "expert"),
    [
        ("model.layers.0.mlp.experts.gate_up_proj.3", ("model.layers.0.mlp.experts", "3")),
        ("a.mlp.experts.expert_12.wi", ("a.mlp.experts", "12")),
        ("a.experts.7.w1", ("a.experts", "7")),
        ("a.experts.w1.7", ("a.experts", "7")),
        ("a.mlp.input_linear.weight.0", ("a.mlp", "0")),
        ("a.mlp.output_linear.weight.0", ("a.mlp", "0")),
        ("a.self_attention.experts.input_linear.weight.2", ("a.self_attention.experts", "2")),
    ],
)
def test_expert_of_weight_name(weight, expert):
    assert expert_of(weight) == expert


class Routed:
    routed = True


@pytest.mark.parametrize(
    "weights",
    [
        ["a.experts.mlp.w1.0", "a.experts.mlp.w1.1", "a.experts.mlp.w1.11"],
        ["a.experts.expert_0.wi1", "a.experts.expert_1.wi1", "a.experts.expert_11.wi1"],
        ["a.experts.0.w1", "a.experts.1.w1", "a.experts.11.w1"],
        ["a.1.mlp.input_linear.weight.0", "a.1.mlp.input_linear.weight.1"],
    ],
)
def test_layers_with_the_same_role_in_experts_are_one_stage(weights):
    groups = [[name] for name in weights]
    assert stages(groups, dict.fromkeys(weights, Routed())) == [groups]


@pytest.mark.parametrize("name", ["dbrx", "mixtral", "jetmoe", "llama4", "switch_transformers"])
def test_unrouted_experts_are_where_their_numbers_belong(name):
    """The order is that of a text that is routed to all experts."""
    model = ARCHITECTURES[name].make()
    layers = backbone_layers(model)
    generator = torch.Generator().manual_seed(0)
    orders = []
    for length in (1, 60):
        ids = torch.randint(3, 60, (1, length), generator=generator)
        batch = {"input_ids": ids}
        if model.config.is_encoder_decoder:
            batch["labels"] = ids
        with torch.no_grad(), without_cache(model), eager_experts(model):
            orders.append(trace_calls(model, layers, blocks(model, list(layers)), batch))
    short, long = orders
    # The others call all their experts.
    assert len(short.uses) < len(long.uses) or name in ("jetmoe", "llama4")
    assert long.groups == short.groups
    assert long.ordered == short.ordered == set(long.groups)


@pytest.mark.parametrize("name", ["mixtral", "jetmoe", "llama4", "granitemoe", "jamba"])
@pytest.mark.parametrize("text", ["svd-50", "movement-50,steps=1", "rtn-int8,activations=true"])
def test_error_for_experts_gives_the_exclude_setting(name, text):
    model = ARCHITECTURES[name].make()
    batches = calibration(model)
    with pytest.raises(RecipeError, match=r"exclude=\*\.") as caught:
        compress(model, Recipe.parse(text), batches)
    setting = str(caught.value).rpartition("; ")[2]
    result = compress(model, Recipe.parse(f"{text},{setting}"), batches)
    assert any("attn" in key or "attention" in key or "kv_proj" in key
               for key in (*result.layers, *result.layout.factored))  # fmt: skip


def test_shared_expert_is_pruned_if_experts_are_excluded():
    model = ARCHITECTURES["qwen2_moe"].make()
    with pytest.raises(RecipeError, match="made smaller") as caught:
        compress(model, Recipe.parse("ffn-50,score=magnitude"), calibration(model))
    setting = str(caught.value).rpartition("; ")[2]
    compress(model, Recipe.parse(f"ffn-50,score=magnitude,{setting}"), calibration(model))
    assert model.model.layers[0].mlp.shared_expert.up_proj.out_features == 12
