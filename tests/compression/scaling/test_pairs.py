"""The pairs found in each architecture, and the reasons why others cannot be scaled."""

import copy

import pytest
import torch
from torch import nn

from compression_gates.compression.model.layers import all_layers, backbone_layers
from compression_gates.compression.scaling.pairs import find_pairs, write
from compression_gates.compression.scaling.probing import NO_CHANNEL
from tests.compression import zoo

GATED = {
    "input_layernorm -> q_proj, k_proj, v_proj", "v_proj -> o_proj",
    "post_attention_layernorm -> gate_proj, up_proj", "up_proj -> down_proj",
}  # fmt: skip
GEMMA = {x.replace("post_attention", "pre_feedforward") for x in GATED}
EXPECTED = {
    "llama": GATED, "mistral": GATED, "qwen2": GATED, "qwen3": GATED,
    "gemma2": GEMMA, "gemma3": GEMMA,
    "phi3": {
        "input_layernorm -> qkv_proj", "qkv_proj -> o_proj",
        "post_attention_layernorm -> gate_up_proj", "gate_up_proj -> down_proj",
    },
    "opt": {
        "self_attn_layer_norm -> q_proj, k_proj, v_proj", "v_proj -> out_proj",
        "final_layer_norm -> fc1", "fc1 -> fc2",
    },
    "gpt2": {"ln_1 -> c_attn", "c_attn -> c_proj", "ln_2 -> c_fc"},
    "gpt_neox": {
        "input_layernorm -> query_key_value", "query_key_value -> dense",
        "post_attention_layernorm -> dense_h_to_4h",
    },
    "mixtral": {"input_layernorm -> q_proj, k_proj, v_proj", "v_proj -> o_proj"},
    "bert": {"value -> dense", "LayerNorm -> dense"},
    "roberta": {"value -> dense"},
    "albert": {"LayerNorm -> embedding_hidden_mapping_in", "value -> dense"},
    "distilbert": {"v_lin -> out_lin"},
    "deberta_v2": {"value_proj -> dense"},
    "t5": {
        "layer_norm -> q, k, v", "layer_norm -> q", "v -> o", "layer_norm -> wi", "wi -> wo",
        "final_layer_norm -> k, v, k, v",
    },
}  # fmt: skip
"""Usable pairs by architecture, with the last parts of their layers' names."""


def usable(model, selected=None):
    pairs = find_pairs(model, selected or backbone_layers(model))
    return [pair for pair, reason in pairs if reason is None]


def unusable(model, selected=None):
    pairs = find_pairs(model, selected or backbone_layers(model))
    return {str(pair): reason for pair, reason in pairs if reason is not None}


def short_name(pair):
    last = [name.rpartition(".")[2] for name in pair.consumers]
    return f"{pair.name.rpartition('.')[2]} -> {', '.join(last)}"


@torch.no_grad()
def outputs(model, name, batches):
    return torch.cat([model(**b).logits.flatten() for b in zoo.inputs(name, batches)])


def test_expected_pairs_cover_every_architecture():
    assert EXPECTED.keys() == zoo.CONFIGS.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_pairs_are_found_and_preserve_the_outputs(random_model, batches, name):
    model = random_model(name)
    state, before = copy.deepcopy(model.state_dict()), outputs(model, name, batches)
    pairs = usable(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert {short_name(pair) for pair in pairs} == EXPECTED[name]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for pair in pairs:
            scales = torch.rand(pair.producer.channels, generator=generator).double() * 8 + 0.1
            assert write(pair.changes(scales.where(pair.carried, 1.0)))
    # The norms of Gemma compute in float32 for every dtype.
    share = 1e-6 if name.startswith("gemma") else 1e-9
    assert (outputs(model, name, batches) - before).abs().max() < share * before.abs().max()
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, state[k])}
    assert changed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "phi3", "bert"])
def test_half_precision_finds_the_same_pairs(random_model, dtype, name):
    assert {short_name(pair) for pair in usable(random_model(name).to(dtype))} == EXPECTED[name]


def test_heads_of_a_group_share_channels(random_model):
    (pair,) = [
        p for p in usable(random_model("llama")) if p.name == "model.layers.1.self_attn.v_proj"
    ]
    numbers = pair.channels["model.layers.1.self_attn.o_proj"]
    # There are four heads of width 8, and two of them share each value head.
    assert torch.equal(numbers, torch.arange(16).view(2, 1, 8).expand(2, 2, 8).flatten())
    assert pair.reduced({n: torch.arange(32.0) for n in pair.consumers}, "amax").tolist() == [
        *range(8, 16), *range(24, 32),
    ]  # fmt: skip


def test_only_values_of_a_fused_projection_are_carried(random_model):
    model = random_model("gpt2")
    (pair,) = [p for p in usable(model) if p.name == "transformer.h.0.attn.c_attn"]
    assert torch.equal(pair.channels["transformer.h.0.attn.c_proj"], torch.arange(64, 96))
    assert pair.carried.nonzero().flatten().tolist() == list(range(64, 96))
    neox = [p for p in usable(random_model("gpt_neox")) if p.name.endswith("query_key_value")]
    numbers = neox[0].channels["gpt_neox.layers.0.attention.dense"].view(4, 8)
    # The query, key and value of one head are adjacent.
    assert torch.equal(numbers, torch.arange(96).view(4, 3, 8)[:, 2])


@pytest.mark.parametrize(("name", "offset"), [("llama", 0), ("gemma2", 1), ("opt", 0)])
def test_offset_of_norms(random_model, name, offset):
    norms = [p.producer for p in usable(random_model(name)) if "norm" in p.name]
    assert norms
    assert {norm.offset for norm in norms} == {offset}


def test_input_without_a_channel_has_column_scale_one(random_model):
    (pair, *_) = usable(random_model("llama"))
    name = next(iter(pair.consumers))
    pair.channels[name][3] = NO_CHANNEL
    scales = torch.full((pair.producer.channels,), 2.0)
    columns = pair.columns(name, scales)
    assert columns[3] == 1
    assert columns.sum() == 2 * len(columns) - 1


def test_norm_that_feeds_the_residual_is_unusable(random_model):
    reasons = unusable(random_model("bert"))
    norms = {name: why for name, why in reasons.items() if "LayerNorm" in name.split(" -> ")[0]}
    assert len(norms) == 4
    assert set(norms.values()) == {"scaling it would change the outputs of the model"}


def test_tied_head_is_unusable(random_model):
    model = random_model("llama")
    reasons = unusable(model, all_layers(model))
    assert reasons == {"model.norm -> lm_head": "one of its weights is shared with another module"}


def test_layers_that_share_a_weight_are_unusable(random_model):
    model = random_model("llama")
    block = model.model.layers[0].self_attn
    block.k_proj.weight = block.v_proj.weight
    reasons = unusable(model)
    assert set(reasons.values()) == {"one of its weights is shared with another module"}
    assert {name.split(" ")[0] for name in reasons} == {
        "model.layers.0.input_layernorm", "model.layers.0.self_attn.v_proj",
    }  # fmt: skip


def test_block_with_an_unreached_layer_is_unusable(random_model):
    model = random_model("llama")
    model.model.layers[0].mlp.another = nn.Linear(32, 48).double()
    reasons = unusable(model)
    assert set(reasons.values()) == {"its block has layers that not every input reaches"}
    assert all("layers.0" in name for name in reasons)
    assert len(reasons) == 4


def test_consumers_are_scaled_with_one_producer_only(random_model):
    model = random_model("llama")
    for block in model.model.layers:
        block.mlp.act_fn = nn.ReLU()
    pairs = {pair.name.rpartition(".")[2] for pair in usable(model)}
    assert "gate_proj" in pairs
    assert set(unusable(model).values()) == {"its consumers are scaled with another producer"}


def test_partly_selected_pair_is_unusable(random_model):
    model = random_model("llama")
    selected = {name: x for name, x in backbone_layers(model).items() if "k_proj" not in name}
    assert set(unusable(model, selected).values()) == {
        "one of its layers is excluded, not included, or a router"
    }
    assert not any("k_proj" in str(pair) for pair in usable(model, selected))


def test_overflowing_changes_are_not_written():
    one, two = torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.float16)
    assert not write([(one, torch.full((2,), 2.0)), (two, torch.full((2,), 1e6))])
    assert torch.equal(one, torch.ones_like(one))
    assert write([(one, torch.full((2,), 2.0))])
    assert torch.equal(one, torch.full_like(one, 2))
