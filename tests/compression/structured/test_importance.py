"""Importance scores against gradients of gates, captured inputs and sums, in float64."""

import pytest
import torch
from torch.nn import functional as F

from compression_gates.compression.apply import compress
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.recipe import Recipe
from compression_gates.compression.structured.coupling import FFN, HEADS, find_couplings
from compression_gates.compression.structured.importance import unit_scores
from compression_gates.compression.structured.step import kept_units

ALBERT = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.dense"


def scores(model, method, score, batches=()):
    couplings = find_couplings(model, method)
    results = unit_scores(model, couplings, score, batches)
    return {c.consumer.name: s for c, s in zip(couplings, results, strict=True)}


def texts(batches):
    """Return the texts of the batches one by one, with their padding."""
    return [
        {key: value[row : row + 1] for key, value in batch.items()}
        for batch in batches
        for row in range(len(batch["input_ids"]))
    ]


def test_magnitude_of_channels_and_heads(tiny):
    model = tiny("llama")
    channels, groups = scores(model, FFN, "magnitude"), scores(model, HEADS, "magnitude")
    for number, layer in enumerate(model.model.layers):
        mlp, attention = layer.mlp, layer.self_attn
        for j in (0, 17, 47):
            parts = mlp.gate_proj.weight[j], mlp.up_proj.weight[j], mlp.down_proj.weight[:, j]
            expected = sum(part.square().sum().item() for part in parts) ** 0.5
            found = float(channels[f"model.layers.{number}.mlp.down_proj"][j])
            assert found == pytest.approx(expected, rel=1e-12)
        for group in range(2):
            wide, narrow = (slice(group * n, (group + 1) * n) for n in (16, 8))
            parts = (
                attention.q_proj.weight[wide], attention.k_proj.weight[narrow],
                attention.v_proj.weight[narrow], attention.o_proj.weight[:, wide],
            )  # fmt: skip
            expected = sum(part.square().sum().item() for part in parts) ** 0.5
            found = float(groups[f"model.layers.{number}.self_attn.o_proj"][group])
            assert found == pytest.approx(expected, rel=1e-12)


def test_magnitude_of_transposed_layers(tiny):
    model = tiny("gpt2")
    found = scores(model, HEADS, "magnitude")["transformer.h.0.attn.c_proj"]
    attention = model.transformer.h[0].attn
    for head in range(4):
        part = attention.c_attn.weight.view(32, 3, 4, 8)[:, :, head]
        columns = attention.c_proj.weight[head * 8 : head * 8 + 8]
        expected = (part.square().sum() + columns.square().sum()).sqrt().detach()
        assert float(found[head]) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "method", "name", "units"),
    [
        ("llama", FFN, "model.layers.1.mlp.down_proj", 48),
        ("llama", HEADS, "model.layers.1.self_attn.o_proj", 2),
        ("gpt2", HEADS, "transformer.h.1.attn.c_proj", 4),
        ("bert", FFN, "bert.encoder.layer.0.output.dense", 48),
        (
            "albert",
            HEADS,
            ALBERT,
            4,
        ),
    ],
)
def test_activation_is_the_mean_norm_over_tokens_without_padding(
    tiny, batches, kind, method, name, units
):
    model = tiny(kind)
    module = model.get_submodule(name)
    captured = []
    handle = module.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    norms = []
    with torch.no_grad():
        for text in texts(batches):
            captured.clear()
            model(**text)
            for inputs in captured:
                real = inputs[text["attention_mask"].bool()]
                norms.append(real.view(len(real), units, -1).norm(dim=-1))
    handle.remove()
    weight = module.weight if kind == "gpt2" else module.weight.T
    expected = torch.cat(norms).mean(0) * weight.reshape(units, -1).norm(dim=1)
    found = scores(model, method, "activation", batches)[name]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=0)


def gate_gradients(model, name, units, batch_texts):
    """Return the mean over texts of ``|dL/dg|``, for gates on the units of a layer's input."""
    total = torch.zeros(units, dtype=torch.float64)
    module = model.get_submodule(name)
    for text in batch_texts:
        gates = torch.ones(units, dtype=model.dtype, requires_grad=True)

        def gated(_, inputs, gates=gates):
            return inputs[0] * gates.repeat_interleave(inputs[0].shape[-1] // units)

        handle = module.register_forward_pre_hook(gated)
        logits = model(**{k: v for k, v in text.items() if k != "classes"}).logits
        handle.remove()
        if "classes" in text:
            loss = F.cross_entropy(logits, text["classes"])
        else:
            real = text["attention_mask"][0].bool()
            ids = text["input_ids"][0][real]
            loss = F.cross_entropy(logits[0][real][:-1], ids[1:])
        total += torch.autograd.grad(loss, gates)[0].abs() / len(batch_texts)
    return total


@pytest.mark.parametrize(
    ("kind", "method", "name", "units"),
    [
        ("llama", FFN, "model.layers.0.mlp.down_proj", 48),
        ("llama", HEADS, "model.layers.0.self_attn.o_proj", 2),
        ("gpt2", HEADS, "transformer.h.0.attn.c_proj", 4),
        ("mixtral", HEADS, "model.layers.0.self_attn.o_proj", 2),
    ],
)
def test_taylor_is_the_gradient_of_gates(tiny, batches, kind, method, name, units):
    # The kernel of the experts does not support float64.
    model = tiny(kind, torch.float32 if kind == "mixtral" else torch.float64)
    expected = gate_gradients(model, name, units, texts(batches))
    found = scores(model, method, "taylor", batches)[name]
    # Losses are computed in float32.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", [FFN, HEADS])
@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_taylor_sums_all_uses_of_a_layer(tiny, batches, kind, method):
    model = tiny(kind)
    labels = torch.tensor([0, 1, 1])
    labelled = [batch | {"labels": labels} for batch in batches]
    plain = [
        text | {"classes": labels[row % 3 : row % 3 + 1]} for row, text in enumerate(texts(batches))
    ]
    found = scores(model, method, "taylor", labelled)
    assert len(found) == (1 if kind == "albert" else 2)
    for name, values in found.items():
        expected = gate_gradients(model, name, len(values), plain)
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-7)


def test_taylor_does_not_depend_on_the_batches(tiny, batches):
    model = tiny("llama")
    one_each = [text for batch in batches for text in texts([batch])]
    together = scores(model, FFN, "taylor", batches)
    for name, values in scores(model, FFN, "taylor", one_each).items():
        torch.testing.assert_close(values, together[name], rtol=1e-6, atol=0)


def test_tokens_of_padding_have_no_effect(tiny, batches):
    model = tiny("llama")
    other = [
        batch | {"input_ids": batch["input_ids"] + 7 * (1 - batch["attention_mask"])}
        for batch in batches
    ]
    for score in ("activation", "taylor"):
        first, second = (scores(model, FFN, score, given) for given in (batches, other))
        for name, values in first.items():
            torch.testing.assert_close(values, second[name], rtol=1e-6, atol=0)


def test_lowest_scores_are_removed_and_ties_broken_by_position(tiny, batches):
    assert kept_units(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.5).tolist() == [0, 3]
    assert kept_units(torch.ones(4), 0.5).tolist() == [2, 3]
    assert kept_units(torch.tensor([1.0, 2.0, 0.0]), 1.0).tolist() == [1]
    model = tiny("opt")
    found = scores(model, FFN, "taylor", batches)["model.decoder.layers.0.fc2"]
    before = model.model.decoder.layers[0].fc2.weight.clone()
    compress(model, Recipe.parse("ffn-25,score=taylor"), batches)
    kept = sorted(sorted(range(48), key=lambda j: (float(found[j]), j))[12:])
    assert torch.equal(model.model.decoder.layers[0].fc2.weight, before[:, kept])


def test_scores_of_an_encoder_decoder_model(tiny, batches):
    model = tiny("t5")
    given = [
        batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}
        for batch in batches
    ]
    for score in ("activation", "taylor"):
        found = scores(model, FFN, score, given)
        assert len(found) == 4
        assert all((values > 0).all() for values in found.values())


def test_taylor_ignores_a_text_of_one_token(tiny, batches):
    model = tiny("llama")
    single = {key: value[:1, :1] for key, value in batches[0].items()}
    without, with_it = (scores(model, FFN, "taylor", b) for b in (batches, [*batches, single]))
    for name, values in without.items():
        torch.testing.assert_close(values, with_it[name], rtol=1e-6, atol=0)
    with pytest.raises(CompressionError, match="no text has a next token"):
        scores(model, FFN, "taylor", [single])


@pytest.mark.parametrize("score", ["activation", "taylor"])
def test_no_text_raises(tiny, score):
    with pytest.raises(CompressionError, match="at least one batch of text"):
        compress(tiny("llama"), Recipe.parse(f"ffn-50,score={score}"))
