"""Scaling steps on whole models."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compression_gates.compression.apply import compress
from compression_gates.compression.calibration.driver import collect
from compression_gates.compression.calibration.hessian import output_error
from compression_gates.compression.checkpoint.saving import form_of
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.layers import all_layers, backbone_layers
from compression_gates.compression.quantization.grids import Uniform, round_to_nearest
from compression_gates.compression.recipe import Recipe
from compression_gates.compression.scaling.pairs import find_pairs
from compression_gates.fixtures.world import corpus
from tests.compression import zoo

LLAMA = Path(__file__).parents[3] / "fixtures/models/llama-tiny"
METHODS = ["smoothquant", "awq-int3", "awq-int4,group=16,grid=5"]
QUANTIZATION = dict(zip(METHODS, ["rtn-int4", "rtn-int3", "rtn-int4,group=16"], strict=True))


def apply(model, text, data):
    return compress(model, Recipe.parse(text), data)


@torch.no_grad()
def outputs(model, data):
    return torch.cat([model(**batch).logits.float().flatten() for batch in data])


@pytest.fixture(scope="module")
def trained():
    return AutoModelForCausalLM.from_pretrained(LLAMA).eval()


@pytest.fixture(scope="module")
def passages():
    tokenizer = AutoTokenizer.from_pretrained(LLAMA)
    texts = [corpus.passage("calibration", i).text for i in range(6)]
    return [{"input_ids": tokenizer(text, return_tensors="pt").input_ids} for text in texts]


SOME = ("llama", "gemma2", "gpt2", "mixtral", "bert", "albert", "t5")
"""For the others, test_pairs.py asserts that outputs are preserved."""
CASES = [
    *(
        pytest.param(name, "smoothquant", marks=[] if name in SOME else pytest.mark.full)
        for name in zoo.CONFIGS
    ),
    *((name, "awq-int3") for name in ("llama", "gpt2", "gemma2", "phi3", "bert", "albert", "t5")),
    ("opt", "awq-int4,group=16,grid=5"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), CASES)
def test_outputs_are_preserved(random_model, batches, name, text):
    model, data = random_model(name), zoo.inputs(name, batches)
    state, before = copy.deepcopy(model.state_dict()), outputs(model, data)
    result = apply(model, text, data)
    assert (outputs(model, data) - before).abs().max() <= 1e-5 * before.abs().max()
    assert not all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert result.layers == ()
    assert form_of(result) == "plain"


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
def test_smoothquant_is_equation_4_on_every_pair(random_model, batches, alpha):
    model = random_model("llama")
    layers = backbone_layers(model)
    before = copy.deepcopy(model.state_dict())
    statistics = collect(model, layers, batches, with_products=False, with_magnitudes=True)
    largest = {name: moments.largest for name, moments in statistics.items()}
    apply(model, f"smoothquant,alpha={alpha}", batches)
    after = model.state_dict()
    block = "model.layers.1."
    names = [f"{block}self_attn.{x}_proj" for x in "qk"]
    weights = torch.cat([before[f"{block}self_attn.{x}_proj.weight"] for x in "qkv"])
    expected = largest[names[0]] ** alpha / weights.abs().amax(dim=0) ** (1 - alpha)
    for name in names:
        assert torch.allclose(after[f"{name}.weight"], before[f"{name}.weight"] * expected)
    norm = f"{block}input_layernorm.weight"
    assert torch.allclose(after[norm], before[norm] / expected)
    # Two heads share each value head and its scale.
    o_proj = f"{block}self_attn.o_proj"

    def shared(values):
        return values.view(2, 2, 8).amax(dim=1).flatten()

    inputs, ranges = shared(largest[o_proj]), shared(before[f"{o_proj}.weight"].abs().amax(0))
    scales = inputs**alpha / ranges ** (1 - alpha)
    columns = scales.view(2, 1, 8).expand(2, 2, 8).flatten()
    assert torch.allclose(after[f"{o_proj}.weight"], before[f"{o_proj}.weight"] * columns)
    v_proj = f"{block}self_attn.v_proj.weight"
    by_input = before[v_proj] * expected
    assert torch.allclose(after[v_proj], by_input / scales[:, None])


@pytest.mark.parametrize(
    ("bits", "group"), [pytest.param(4, None, marks=pytest.mark.full), (3, None), (3, 16)]
)
def test_awq_error_of_each_pair_is_at_most_the_unscaled_error(trained, passages, bits, group):
    model = copy.deepcopy(trained)
    layers = backbone_layers(model)
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    statistics = collect(model, layers, passages, with_products=True)
    text = f"awq-int{bits}" + (f",group={group}" if group else "")
    apply(model, text, passages)
    pairs = [pair for pair, reason in find_pairs(model, layers) if reason is None]
    assert len(pairs) == 16
    assert {name for pair in pairs for name in pair.consumers} == layers.keys()
    better = 0
    for pair in pairs:
        plain = scaled = 0.0
        for name in pair.consumers:
            hessian = statistics[name].hessian
            after = layers[name].weight

            def rounded(weight):
                return round_to_nearest(weight, Uniform(bits), group).dequantized()

            # The ratio includes the scales of the rows, which belong to the next pair.
            factors = after / before[name]
            plain += output_error(rounded(before[name]) - before[name], hessian).sum()
            scaled += output_error(rounded(after) / factors - before[name], hessian).sum()
        assert scaled <= plain * (1 + 1e-3)
        better += bool(scaled < 0.99 * plain)
    assert better > len(pairs) / 2


def test_awq_with_one_grid_point_changes_nothing(random_model, batches):
    for name in ("llama", "gemma2"):
        model = random_model(name).float()
        state = copy.deepcopy(model.state_dict())
        apply(model, "awq-int4,grid=1", batches)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_smoothquant_reduces_the_error_of_outlier_channels(trained, passages):
    model = copy.deepcopy(trained)
    with torch.no_grad():
        for block in model.model.layers:
            for norm, layers in (
                (block.input_layernorm, [getattr(block.self_attn, f"{x}_proj") for x in "qkv"]),
                (block.post_attention_layernorm, [block.mlp.gate_proj, block.mlp.up_proj]),
            ):
                norm.weight[7] *= 50
                for layer in layers:
                    layer.weight[:, 7] /= 50
    exact = outputs(model, passages)
    errors = {}
    for text in ("rtn-int8,activations=true", "smoothquant+rtn-int8,activations=true"):
        changed = copy.deepcopy(model)
        apply(changed, text, passages)
        errors[text] = float((outputs(changed, passages) - exact).square().mean())
    plain, smooth = errors.values()
    assert smooth < plain / 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("text", ["smoothquant", "smoothquant,alpha=1", "awq-int4"])
def test_half_precision_is_finite_with_dead_features_and_zero_weights(
    tiny_llama, batches, dtype, text
):
    model = tiny_llama.to(dtype)
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight[5] = 0
        for x in "qkv":
            getattr(model.model.layers[0].self_attn, f"{x}_proj").weight[:, 6] = 0
        model.model.layers[1].mlp.up_proj.weight[3] = 0
    before = outputs(model, batches)
    apply(model, text, batches)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert (outputs(model, batches) - before).abs().max() < 0.05 * before.abs().max()


def test_pair_that_overflows_float16_is_not_scaled(tiny_llama, batches):
    with torch.no_grad():
        # Two large inputs cancel; alpha = 1 would move their products into the weights.
        block = tiny_llama.model.layers[0]
        table = tiny_llama.get_input_embeddings().weight
        table[:, 1] = table[:, 0]
        block.input_layernorm.weight[:2] = 5000
        for x in "qkv":
            getattr(block.self_attn, f"{x}_proj").weight[:, :2] = 0
        block.self_attn.q_proj.weight[:, 0] = 30
        block.self_attn.q_proj.weight[:, 1] = -30
    model = tiny_llama.half()
    result = apply(model, "smoothquant,alpha=1", batches)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert (block.input_layernorm.weight[:2] == 5000).all()
    assert (
        result.notes[0] == "smoothquant,alpha=1.0: no quantization step follows this scaling step"
    )
    (note,) = result.notes[1:]
    assert note.startswith("smoothquant,alpha=1.0: model.layers.0.input_layernorm -> ")
    assert note.endswith("is not scaled: the scaled weights overflow its dtype")


@pytest.mark.parametrize("text", METHODS)
def test_pruning_masks_are_preserved(random_model, batches, text):
    model = random_model("llama").float()
    result = apply(model, f"wanda-2:4+{text}+{QUANTIZATION[text]}", batches)
    for name, pattern in result.pruned.items():
        kept = (all_layers(model)[name].weight != 0).unflatten(1, (-1, pattern.m)).sum(-1)
        assert int(kept.max()) <= pattern.n
    assert result.quantized.keys() == result.pruned.keys()


@pytest.mark.parametrize("text", METHODS)
def test_only_selected_layers_are_changed(random_model, batches, text):
    model = random_model("llama")
    before = copy.deepcopy(model.state_dict())
    result = apply(model, f"{text},exclude=*.k_proj|*layers.0.mlp*", batches)
    changed = {
        name.removesuffix(".weight")
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    allowed = {f"model.layers.{i}.self_attn.{x}_proj" for i in (0, 1) for x in "vo"}
    allowed |= {f"model.layers.1.mlp.{x}_proj" for x in ("gate", "up", "down")}
    allowed |= {"model.layers.1.post_attention_layernorm"}
    # AWQ may choose not to scale a pair.
    assert changed == allowed if text == "smoothquant" else changed and changed <= allowed
    (note,) = result.notes[1:]
    assert note.endswith(
        "model.layers.0.input_layernorm -> model.layers.0.self_attn.q_proj, "
        "model.layers.0.self_attn.k_proj, model.layers.0.self_attn.v_proj and 1 more are "
        "not scaled: one of its layers is excluded, not included, or a router"
    )


def test_low_rank_factors_are_a_pair(random_model, batches):
    model = random_model("llama").float()
    result = apply(model, "svd-50,include=*down_proj+awq-int3", batches)
    names = [name for name in all_layers(model) if "down_proj" in name]
    assert len(names) == 2 * len(result.layout.factored) == 4
    pairs = {pair.name for pair, reason in find_pairs(model, backbone_layers(model)) if not reason}
    assert {"model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj.first"} <= pairs


def test_group_that_does_not_divide_the_width_raises(random_model, batches):
    model = random_model("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RecipeError, match=r"layers\.0\.self_attn\.q_proj: group = 24 does not"):
        apply(model, "awq-int4,group=24", batches)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("text", METHODS)
def test_no_usable_pair_raises_before_any_step(random_model, batches, text):
    model = random_model("bert")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RecipeError) as caught:
        apply(model, f"magnitude-50+{text},include=*intermediate*|*.0.output.dense", batches)
    message = str(caught.value)
    assert (
        "BertForSequenceClassification has no norm or linear layer whose output can be" in message
    )
    assert "attention.output.LayerNorm -> " in message
    assert message.endswith(
        "and 1 more are not scaled: scaling it would change the outputs of the model"
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
