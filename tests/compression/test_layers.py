import pytest
import torch
import transformers

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration, tokenizer
from compression_gates.compression.calibration.driver import collect
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.layers import (
    all_layers,
    outside_layers,
    routers,
    selected_layers,
)
from compression_gates.compression.recipe import Recipe


def names(model, **settings):
    recipe = Recipe.parse({"method": "magnitude", "sparsity": 0.5, **settings})
    return list(selected_layers(model, recipe.steps[0]))


def test_head_is_selected_only_by_a_pattern(tiny_llama):
    assert len(names(tiny_llama)) == 2 * 7
    assert "lm_head" not in names(tiny_llama)
    assert names(tiny_llama, include=["lm_head"]) == ["lm_head"]


@pytest.mark.parametrize(
    ("kind", "layers"), [("bert", 3 * 6 + 1), ("roberta", 3 * 6), ("albert", 1 + 6 + 1)]
)
def test_classifier_heads_are_not_selected(tiny_encoder, kind, layers):
    selected = names(tiny_encoder(kind))
    assert len(selected) == layers
    assert not any("classifier" in name for name in selected)


def test_include_and_exclude(tiny_llama):
    assert len(names(tiny_llama, include=["*mlp*"])) == 2 * 3
    assert len(names(tiny_llama, include=["*mlp*"], exclude=["*.0.*"])) == 3
    assert len(names(tiny_llama, exclude=["*q_proj"])) == 2 * 6


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(tiny_llama, key):
    with pytest.raises(RecipeError, match=r"'\*ffn\*' matches no linear layer"):
        names(tiny_llama, **{key: ["*ffn*"]})


def test_empty_selection_is_an_error(tiny_llama):
    with pytest.raises(RecipeError, match="no layer of LlamaForCausalLM is left"):
        names(tiny_llama, exclude=["*"])


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("xlnet", "transformer.layer.0.rel_attn.q"),
        ("squeezebert", "transformer.encoder.layers.0.post_attention.conv1d.weight"),
    ],
)
def test_weights_outside_layers_cause_one_note(name, largest):
    result = compress(ARCHITECTURES[name].make(), Recipe.parse("rtn-int8+bitmask"))
    (note,) = (note for note in result.notes if "outside linear layers" in note)
    share, _ = outside_layers(ARCHITECTURES[name].make())
    assert note.startswith(f"{share:.0%} of the weights")
    assert note.endswith(largest)
    layer = next(iter(all_layers(ARCHITECTURES[name].make())))
    chosen = compress(ARCHITECTURES[name].make(), Recipe.parse(f"rtn-int8,include={layer}"))
    assert not any("outside linear layers" in note for note in chosen.notes)


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "gpt2", "whole"])
def test_no_weights_outside_layers(name, tiny_llama):
    model = tiny_llama if name == "whole" else ARCHITECTURES[name].make()
    assert outside_layers(model) == (0.0, "")


@pytest.fixture
def longcat():
    torch.manual_seed(0)
    config = transformers.LongcatFlashConfig(
        vocab_size=64, hidden_size=32, num_layers=1, num_attention_heads=4, ffn_hidden_size=48,
        expert_ffn_hidden_size=24, n_routed_experts=4, zero_expert_num=2, moe_topk=2,
        q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
        head_dim=4, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return transformers.LongcatFlashForCausalLM(config).eval()


def test_experts_without_a_count_attribute_are_found(longcat):
    experts = [name for name, layer in all_layers(longcat).items() if layer.expert is not None]
    assert len(experts) == 6 + 4  # its gate_up_proj has a slice for the two zero experts as well
    assert all("router" in name for name in routers(longcat))
    assert len(routers(longcat)) == 1


@pytest.mark.parametrize("text", ["rtn-int8", "wanda-50", "gptq-int4"])
def test_experts_without_a_count_attribute_are_compressed(longcat, batches, tmp_path, text):
    result = compress(longcat, Recipe.parse(text), batches)
    seen = [name for name in result.layers if ".experts." in name]
    assert len(seen) == 10
    save(result, tokenizer(), tmp_path / "out")


def test_dbrx_experts_are_the_matrices_of_the_forward_pass():
    """DBRX stacks the matrices of its experts in two dimensions, and transposes the third one."""
    model = ARCHITECTURES["dbrx"].make()
    assert outside_layers(model)[0] < 0.01
    experts = {n: layer for n, layer in all_layers(model).items() if layer.expert is not None}
    assert len(experts) == 2 * 3 * 4
    assert not any("router" not in name for name in routers(model))
    layers = {key: experts[f"transformer.blocks.0.ffn.experts.mlp.{key}.1"] for key in
              ("w1", "v1", "w2")}  # fmt: skip
    assert [layer.weight.shape for layer in layers.values()] == [(48, 32), (48, 32), (32, 48)]
    module = model.transformer.blocks[0].ffn.experts.mlp
    inputs = torch.randn(5, 32)
    parts = [getattr(module, key).view(4, 48, 32)[1] for key in layers]
    gate, up, down = (layer.weight for layer in layers.values())
    expected = (module.activation_fn(inputs @ gate.T) * (inputs @ up.T)) @ down.T
    assert torch.allclose(module(inputs, *parts), expected, atol=1e-6)


@pytest.mark.parametrize(
    "text", ["rtn-int4", "gptq-int4", "wanda-50", "sparsegpt-2:4", "taylor-50", "log-int4",
             "magnitude-50+bitmask", "wanda-50+gptq-int4"],
)  # fmt: skip
def test_dbrx_experts_are_compressed_saved_and_loaded(text, tmp_path):
    model = ARCHITECTURES["dbrx"].make()
    result = compress(model, Recipe.parse(text), calibration(model))
    experts = [name for name in result.layers if ".experts." in name]
    assert len(experts) == 2 * 3 * 4
    assert not any("no calibration token" in note and "24" in note for note in result.notes)
    save(result, tokenizer(), tmp_path / "out")
    loaded = type(model).from_pretrained(tmp_path / "out").state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


def test_dbrx_expert_inputs_are_captured():
    model = ARCHITECTURES["dbrx"].make()
    experts = {n: layer for n, layer in all_layers(model).items() if layer.expert is not None}
    seen = collect(model, experts, calibration(model), with_products=False)
    tokens = sum(sum(int(m.sum()) for m in [b["attention_mask"]]) for b in calibration(model))
    for key in ("w1", "v1", "w2"):
        routed = sum(s.tokens for n, s in seen.items() if f"blocks.0.ffn.experts.mlp.{key}." in n)
        assert routed == 2 * tokens
