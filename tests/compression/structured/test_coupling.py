"""The units found in layers whose channel order is known."""

import pytest
import torch

from compression_gates.compression.apply import compress
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.recipe import Recipe
from compression_gates.compression.structured.coupling import FFN, HEADS, find_couplings


def couplings_by_name(model, method):
    return {c.consumer.name: c for c in find_couplings(model, method)}


def rows(coupling):
    names = [layer.name.rpartition(".")[2] for layer in coupling.producers]
    return {name: owner.tolist() for name, owner in zip(names, coupling.rows, strict=True)}


def test_gated_ffn(tiny):
    couplings = couplings_by_name(tiny("llama"), FFN)
    assert list(couplings) == [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
    for coupling in couplings.values():
        assert coupling.units == 48
        assert rows(coupling) == {"gate_proj": list(range(48)), "up_proj": list(range(48))}


def test_fused_gate_and_up_projection(tiny):
    coupling = couplings_by_name(tiny("phi3"), FFN)["model.layers.0.mlp.down_proj"]
    assert rows(coupling) == {"gate_up_proj": list(range(48)) * 2}


def test_query_heads_belong_to_their_key_value_group(tiny):
    coupling = couplings_by_name(tiny("llama"), HEADS)["model.layers.1.self_attn.o_proj"]
    groups = [0] * 8 + [1] * 8
    twice = [0] * 16 + [1] * 16
    assert coupling.units == 2
    assert coupling.columns.tolist() == twice
    assert rows(coupling) == {"q_proj": twice, "k_proj": groups, "v_proj": groups}


def test_fused_projections_with_different_channel_orders(tiny):
    heads = [head for head in range(4) for _ in range(8)]
    coupling = couplings_by_name(tiny("gpt2"), HEADS)["transformer.h.0.attn.c_proj"]
    assert rows(coupling) == {"c_attn": heads * 3}
    coupling = couplings_by_name(tiny("gpt_neox"), HEADS)["gpt_neox.layers.0.attention.dense"]
    assert rows(coupling) == {"query_key_value": [head for head in range(4) for _ in range(24)]}
    coupling = couplings_by_name(tiny("phi3"), HEADS)["model.layers.0.self_attn.o_proj"]
    groups = [0] * 8 + [1] * 8
    assert rows(coupling) == {"qkv_proj": [0] * 16 + [1] * 16 + groups * 2}


def test_position_projections_are_producers(tiny):
    coupling = couplings_by_name(tiny("deberta"), HEADS)[
        "deberta.encoder.layer.0.attention.output.dense"
    ]
    assert {"pos_key_proj", "pos_query_proj", "query_proj"} <= rows(coupling).keys()


@pytest.mark.parametrize("method", [FFN, HEADS])
def test_shared_layer_is_found_once(tiny, method):
    assert len(couplings_by_name(tiny("albert", num_hidden_layers=3), method)) == 1


def test_encoder_decoder_and_cross_attention(tiny):
    names = couplings_by_name(tiny("bart"), HEADS)
    assert len(names) == 1 + 2 * 2
    assert "model.decoder.layers.1.encoder_attn.out_proj" in names


def test_units_are_found_behind_a_relu_that_is_always_zero(tiny):
    model = tiny("opt")
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.fc1.bias.fill_(-100.0)
    assert [c.units for c in find_couplings(model, FFN)] == [48, 48]


def test_low_rank_factors_are_not_an_ffn(tiny):
    model = tiny("llama")
    compress(model, Recipe.parse("svd-50"))
    ffn = couplings_by_name(model, FFN)
    assert list(ffn) == [f"model.layers.{i}.mlp.down_proj.first" for i in range(2)]
    assert all(c.units == 48 for c in ffn.values())
    heads = couplings_by_name(model, HEADS)["model.layers.0.self_attn.o_proj.first"]
    assert [layer.name.rpartition("self_attn.")[2] for layer in heads.producers] == [
        "q_proj.second", "k_proj.second", "v_proj.second",
    ]  # fmt: skip


def test_probe_that_does_not_run_raises(tiny, monkeypatch):
    def forward(**batch):
        raise ValueError("no image\nfor this text")

    model = tiny("llama")
    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(RecipeError, match=r"LlamaForCausalLM does not run .*: no image for"):
        find_couplings(model, FFN)


def test_frozen_weights_and_no_grad(tiny):
    model = tiny("gpt2").requires_grad_(False)
    with torch.no_grad():
        assert len(find_couplings(model, FFN)) == len(find_couplings(model, HEADS)) == 2


def test_probing_changes_neither_generator_nor_hooks(tiny):
    model = tiny("llama")
    before = torch.get_rng_state()
    find_couplings(model, FFN)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module._forward_hooks for module in model.modules())
