"""Counts over weights against brute force."""

import pytest
import torch
import transformers

from compression_gates.evals.models.loading import Loaded, load
from compression_gates.evals.scoring.footprint import (
    footprint,
    has_pattern,
    linear_weights,
    weights_digest,
)

SIZES = dict(
    vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0,
)  # fmt: skip
EXPERTS = dict(num_experts_per_tok=2, intermediate_size=24)
MODELS = {
    "GPT2LMHeadModel": dict(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "MixtralForCausalLM": SIZES | EXPERTS | dict(num_local_experts=4),
    "Qwen3MoeForCausalLM": SIZES | EXPERTS | dict(
        num_experts=4, moe_intermediate_size=12, head_dim=8
    ),
    "Qwen2MoeForCausalLM": SIZES | EXPERTS | dict(
        num_experts=4, moe_intermediate_size=12, shared_expert_intermediate_size=20
    ),
    "GptOssForCausalLM": SIZES | EXPERTS | dict(num_local_experts=4, head_dim=8),
}  # fmt: skip
TRANSPOSED = {
    "GPT2LMHeadModel": ("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    "GptOssForCausalLM": ("gate_up_proj", "down_proj"),
}
ROUTERS = ("mlp.gate.weight", "mlp.router.weight", "block_sparse_moe.gate.weight")
NO_LAYER = ("wte", "wpe", "embed", "norm", "ln_", "bias", "sinks", "lm_head")


def model_of(name: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**MODELS[name])).eval()


def layers_of(name: str, model) -> dict[str, torch.Tensor]:
    """Return all weights ``(out, in)``, identified by the names of parameters only."""
    layers = {}
    for key, parameter in model.named_parameters():
        if key.endswith(ROUTERS) or any(part in key for part in NO_LAYER):
            continue
        turned = key.endswith(TRANSPOSED.get(name, ()))
        for number, weight in enumerate(parameter if parameter.ndim == 3 else [parameter]):
            layers[f"{key}.{number}"] = (weight.T if turned else weight).detach()
    return layers


def counted(model, tmp_path) -> dict[str, int]:
    loaded = Loaded(open_plain(tmp_path), model, tokenizer=None)
    return {name: int(n) for name, n in footprint(loaded).items()}


def open_plain(path):
    from compression_gates.evals.checkpoints.checkpoint import CAUSAL, Checkpoint

    return Checkpoint(path, CAUSAL, 0, "model")


def pattern_by_hand(weight: torch.Tensor, n: int, m: int) -> bool:
    rows, columns = weight.shape
    if columns % m:
        return False
    return all(
        sum(float(weight[row, start + place]) != 0 for place in range(m)) <= n
        for row in range(rows)
        for start in range(0, columns, m)
    )


@pytest.mark.parametrize("name", MODELS)
def test_zeros_and_patterns_of_every_layer_are_counted(name, tmp_path):
    model = model_of(name)
    generator = torch.Generator().manual_seed(1)
    layers = layers_of(name, model)
    with torch.no_grad():
        for number, weight in enumerate(layers.values()):
            if number % 3 == 0:  # 2:4 along the inputs
                weight[:, ::4], weight[:, 1::4] = 0.0, 0.0
            elif number % 3 == 1:  # 2:4 along the outputs, which no kernel knows
                weight[::4], weight[1::4] = 0.0, 0.0
            else:
                weight[torch.rand(weight.shape, generator=generator) < 0.3] = 0.0
    counts = counted(model, tmp_path)
    assert counts["layers"] == len(layers)
    assert counts["weights"] == sum(weight.numel() for weight in layers.values())
    assert counts["zeros"] == sum(int((w == 0).sum()) for w in layers.values()) > 0
    for n, m in ((2, 4), (4, 8)):
        assert counts[f"layers_{n}_{m}"] == sum(pattern_by_hand(w, n, m) for w in layers.values())
    assert 0 < counts["layers_2_4"] < counts["layers"]


def test_experts_that_do_not_say_how_they_lie():
    """LLaMA 4 keeps its experts the other way round without an attribute for it."""
    config = transformers.Llama4TextConfig(
        **SIZES, intermediate_size=24, intermediate_size_mlp=24, num_local_experts=4,
        num_experts_per_tok=1, head_dim=8, interleave_moe_layer_step=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Llama4ForCausalLM(config).eval()
    shapes = [tuple(weight.shape) for weight in linear_weights(model)]
    assert shapes.count((48, 16)) == 2 * 4  # gate and up, of each expert of each layer
    assert shapes.count((16, 24)) == 2 * 4 + 2  # down, and that of each shared expert


def test_counts(causal_checkpoint):
    loaded = load(causal_checkpoint())
    linear = [w for n, w in loaded.model.named_parameters() if "proj" in n]
    with torch.no_grad():
        linear[0][:, ::2] = 0.0
    counts = footprint(loaded)
    assert int(counts["weights"]) == sum(w.numel() for w in linear)
    assert int(counts["zeros"]) == linear[0].numel() // 2
    assert int(counts["parameters"]) == sum(p.numel() for p in loaded.model.parameters())
    assert (int(counts["layers"]), int(counts["layers_2_4"])) == (14, 1)


def test_pattern_truth():
    weight = torch.tensor([[1.0, 0, 0, 1, 0, 1, 1, 0]])
    assert has_pattern(weight, 2, 4)
    assert has_pattern(weight, 4, 8)
    assert not has_pattern(torch.roll(weight, 1), 2, 4)
    assert not has_pattern(weight[:, :6], 2, 4)


def test_the_same_values_in_another_type_have_one_digest():
    model = model_of("GPT2LMHeadModel").bfloat16()
    digest = weights_digest(model)
    assert weights_digest(model.float()) == digest
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] += 2.0**-20
    assert weights_digest(model) != digest


def test_rows_that_no_token_has_do_not_count():
    model = model_of("MixtralForCausalLM")
    digest = weights_digest(model, 60)
    assert weights_digest(model, 61) != digest
    model.resize_token_embeddings(80, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[62:] = 0
    assert weights_digest(model, 60) == digest
    with torch.no_grad():
        model.get_input_embeddings().weight[59, 0] += 1
    assert weights_digest(model, 60) != digest
