"""Statistics are compared with inputs recorded by hooks."""

import pytest
import torch

from compression_gates.compression.calibration.driver import blocks, visit_groups
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.layers import backbone_layers


def recorded_inputs(model, layer, batches):
    """Return the unpadded inputs of ``layer`` from complete forward passes."""
    layer = layer.module
    rows = []

    def record(module, inputs, batch):
        flat = inputs[0].flatten(0, -2)
        mask = batch["attention_mask"].flatten().bool()
        rows.append(flat[mask] if len(flat) == len(mask) else flat)

    for batch in batches:
        handle = layer.register_forward_pre_hook(
            lambda module, inputs, batch=batch: record(module, inputs, batch)
        )
        with torch.no_grad():
            model(**batch)
        handle.remove()
    return torch.cat(rows)


def collected(model, batches, with_products=True):
    layers = backbone_layers(model)
    by_name = {}
    for statistics in visit_groups(model, layers, batches, with_products):
        by_name |= statistics
    return layers, by_name


def check(model, batches):
    layers, statistics = collected(model, batches)
    assert set(statistics) == set(layers)
    for name, layer in layers.items():
        inputs = recorded_inputs(model, layer, batches).double()
        assert statistics[name].tokens == len(inputs)
        assert torch.allclose(statistics[name].norm, inputs.norm(dim=0), rtol=1e-5)
        expected = 2 * inputs.T @ inputs / len(inputs)
        assert torch.allclose(statistics[name].hessian.double(), expected, rtol=1e-4, atol=1e-5)


def test_causal_model(tiny_llama, batches):
    check(tiny_llama, batches)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_encoders(tiny_encoder, batches, kind):
    check(tiny_encoder(kind), batches)


def test_a_shared_layer_sees_the_inputs_of_all_its_uses(tiny_encoder, batches):
    _, statistics = collected(tiny_encoder("albert"), batches)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    query = next(name for name in statistics if name.endswith("query"))
    assert statistics[query].tokens == 3 * tokens


def test_padding_is_ignored(tiny_llama, batches):
    _, padded = collected(tiny_llama, batches)
    rows = [
        {"input_ids": ids[mask.bool()][None], "attention_mask": mask[mask.bool()][None]}
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    _, bare = collected(tiny_llama, rows)
    for name, statistics in bare.items():
        assert padded[name].tokens == statistics.tokens
        assert torch.allclose(padded[name].norm, statistics.norm, rtol=1e-5)


def test_later_blocks_use_the_compressed_earlier_blocks(tiny_llama, batches):
    layers = backbone_layers(tiny_llama)
    visits = visit_groups(tiny_llama, layers, batches, with_products=False)
    first = next(visits)
    with torch.no_grad():
        for name in first:
            layers[name].weight.mul_(0.5)
    second = next(visits)
    for name, statistics in second.items():
        inputs = recorded_inputs(tiny_llama, layers[name], batches)
        assert torch.allclose(statistics.norm, inputs.double().norm(dim=0), rtol=1e-5)


def test_blocks_are_members_of_the_outermost_module_list(tiny_llama, tiny_encoder):
    groups = list(blocks(tiny_llama, list(backbone_layers(tiny_llama))).values())
    assert [len(block) for block in groups] == [7, 7]
    groups = list(
        blocks(tiny_encoder("albert"), list(backbone_layers(tiny_encoder("albert")))).values()
    )
    assert sorted(len(block) for block in groups) == [1, 1, 6]


def test_no_text_is_an_error(tiny_llama):
    with pytest.raises(CompressionError, match="at least one batch"):
        next(visit_groups(tiny_llama, backbone_layers(tiny_llama), [], False))


def test_inputs_that_are_not_finite_name_their_layer(tiny_llama, batches):
    with torch.no_grad():
        tiny_llama.model.layers[1].input_layernorm.weight[3] = torch.inf
    with pytest.raises(CompressionError, match=r"layers\.1\.self_attn\.q_proj.*not finite"):
        collected(tiny_llama, batches)
