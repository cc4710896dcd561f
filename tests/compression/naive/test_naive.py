"""Treatments are read from checkpoints made by known recipes, whose naive form is made again."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from compression_gates.compression.apply import compress
from compression_gates.compression.checkpoint.saving import form_of, write
from compression_gates.compression.naive.counterpart import naive_counterpart
from compression_gates.compression.naive.grid_from_values import quantization_of_values
from compression_gates.compression.naive.reading import read_treatments
from compression_gates.compression.naive.treatment import Treatment, Treatments
from compression_gates.compression.quantization.grids import Float8, Uniform, round_to_nearest
from compression_gates.compression.recipe import Recipe

LAYERS = 14
"""Number of linear layers in two blocks."""


@pytest.fixture(scope="module")
def baseline():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def compressed(baseline, recipe):
    ids = torch.arange(48).view(2, 24)
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    return compress(copy.deepcopy(baseline), Recipe.parse(recipe), batches)


def same_weights(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


NAIVE = {
    "rtn-int4,group=32": "rtn-int4,group=32",
    "rtn-int3": "rtn-int3",
    "rtn-int8": "rtn-int8",
    "rtn-int4,scale=tensor": "rtn-int4,scale=tensor",
    "rtn-int4,group=32,symmetric=false": "rtn-int4,group=32,symmetric=false",
    "fp8": "fp8",
    "fp8,scale=tensor": "fp8,scale=tensor",
    "magnitude-40": "zeros",
    "magnitude-2:4": "2:4",
    "magnitude-4:8+rtn-int8": "4:8 and rtn-int8",
    "magnitude-50+rtn-int4": "zeros and rtn-int4",
    "svd-50": "a lower rank",
}


@pytest.mark.parametrize(("recipe", "summary"), NAIVE.items())
def test_a_naive_recipe_is_recognized_by_its_values_and_is_its_own_counterpart(
    baseline, recipe, summary
):
    candidate = compressed(baseline, recipe).model
    treatments = read_treatments(candidate, baseline)
    assert treatments.summary() == f"{summary} in {LAYERS} layers"
    assert Treatments.from_json(treatments.to_json()) == treatments
    naive = naive_counterpart(copy.deepcopy(baseline), treatments)
    assert same_weights(naive.model, candidate)


@pytest.mark.parametrize(
    "recipe",
    ["rtn-int8,activations=true", "rtn-int8,scale=tensor", "fp8,activations=true",
     "rtn-int4,group=32,symmetric=false", "log-int4", "svd-50+rtn-int8", "heads-50",
     "ffn-25+rtn-int4"],
)  # fmt: skip
def test_the_counterpart_of_a_stored_naive_checkpoint_has_the_same_files(
    baseline, recipe, tmp_path
):
    made = compressed(baseline, recipe)
    form = form_of(made)
    write(made, tmp_path / "candidate", form)
    candidate = LlamaForCausalLM.from_pretrained(tmp_path / "candidate").eval()
    candidate(torch.arange(4)[None])  # compressed-tensors unpacks weights when they are first used
    treatments = read_treatments(candidate, baseline)
    assert not treatments.reason
    naive = naive_counterpart(copy.deepcopy(baseline), treatments)
    write(naive, tmp_path / "naive", form)
    for name in ("model.safetensors", "config.json"):
        files = [tmp_path / side / name for side in ("candidate", "naive")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


@pytest.mark.parametrize(
    ("recipe", "naive"),
    [("wanda-50", "magnitude-50"), ("sparsegpt-2:4", "magnitude-2:4"),
     ("gptq-int4,group=32", "rtn-int4,group=32"), ("svdllm-50", "svd-50")],
)  # fmt: skip
def test_a_method_with_data_has_the_counterpart_without(baseline, recipe, naive):
    treatments = read_treatments(compressed(baseline, recipe).model, baseline)
    made = naive_counterpart(copy.deepcopy(baseline), treatments)
    assert same_weights(made.model, compressed(baseline, naive).model)


def test_only_the_layers_that_were_changed_are_treated(baseline):
    candidate = compressed(baseline, "magnitude-30,include=*.0.mlp.*").model
    treatments = read_treatments(candidate, baseline)
    assert [name.split(".")[2:4] for name in treatments.layers] == [["0", "mlp"]] * 3
    assert {t.zeros for t in treatments.layers.values()} == {round(0.3 * 64 * 96)}
    assert not treatments.unexplained


def test_an_unchanged_or_converted_model_has_no_treatment(baseline):
    assert read_treatments(copy.deepcopy(baseline), baseline) == Treatments()
    half = copy.deepcopy(baseline).half()
    assert read_treatments(half, baseline) == Treatments(dtype="float16")
    naive = naive_counterpart(copy.deepcopy(baseline), Treatments(dtype="float16"))
    assert same_weights(naive.model, half)


@torch.no_grad()
def test_a_trained_model_has_no_counterpart(baseline):
    trained = copy.deepcopy(baseline)
    for parameter in trained.parameters():
        parameter += 0.01 * torch.randn_like(parameter)
    reason = read_treatments(trained, baseline).reason
    assert reason.startswith(f"the weights of {LAYERS + 1} layers")  # and the head
    assert "after training" in reason


@torch.no_grad()
def test_a_layer_whose_change_is_unknown_stays_as_in_the_baseline(baseline):
    candidate = compressed(baseline, "magnitude-30").model
    q, k = (candidate.model.layers[1].self_attn.get_submodule(n) for n in ("q_proj", "k_proj"))
    before = baseline.model.layers[1].self_attn.q_proj.weight
    q.weight.copy_(before.roll(1, 0))
    treatments = read_treatments(candidate, baseline)
    assert treatments.unexplained == ("model.layers.1.self_attn.q_proj",)
    assert not treatments.reason
    naive = naive_counterpart(copy.deepcopy(baseline), treatments).model.model.layers[1].self_attn
    assert torch.equal(naive.q_proj.weight, before)
    assert torch.equal(naive.k_proj.weight, k.weight)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"num_hidden_layers": 1}, "lacks layers"), ({"num_hidden_layers": 3}, "after training"),
     ({"intermediate_size": 128}, "larger than that of the baseline")],
)  # fmt: skip
def test_other_layers_have_no_counterpart(baseline, changes, reason):
    config = copy.deepcopy(baseline.config)
    for name, value in changes.items():
        setattr(config, name, value)
    assert reason in read_treatments(LlamaForCausalLM(config).eval(), baseline).reason


@torch.no_grad()
def test_a_layer_too_many_has_no_treatment_but_the_others_have(baseline):
    candidate = compressed(baseline, "magnitude-30").model
    candidate.model.layers.append(copy.deepcopy(candidate.model.layers[1]))
    treatments = read_treatments(candidate, baseline)
    assert not treatments.reason
    assert {name.split(".")[2] for name in treatments.unexplained} == {"2"}
    naive = naive_counterpart(copy.deepcopy(baseline), treatments)
    assert same_weights(naive.model, compressed(baseline, "magnitude-30").model)


@torch.no_grad()
def test_a_narrower_layer_that_fewer_heads_do_not_explain_has_no_counterpart(baseline):
    candidate = copy.deepcopy(baseline)
    candidate.model.layers[0].mlp.up_proj = torch.nn.Linear(64, 48, bias=False)
    assert "does not give its shape (48, 64)" in read_treatments(candidate, baseline).reason


class PackedLinear(torch.nn.Module):
    """A layer of another library: it has codes in place of a weight."""

    def __init__(self, rows, columns):
        super().__init__()
        self.register_buffer("qweight", torch.zeros(rows, columns // 8, dtype=torch.int32))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, "rtn-int4,group=32"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": False},
         "rtn-int8,symmetric=false"),
        ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True},
         "rtn-int4,group=32,symmetric=false"),
        ({"quant_method": "hqq", "nbits": 3, "group_size": 32}, "rtn-int3,group=32"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "rtn-int8"),
        ({"quant_method": "quip"}, None),
    ],
)  # fmt: skip
def test_packed_layers_of_another_library_are_as_the_configuration_declares(
    baseline, config, expected
):
    candidate = copy.deepcopy(baseline)
    candidate.config.quantization_config = config
    for block in candidate.model.layers:
        block.mlp.up_proj = PackedLinear(96, 64)
    treatments = read_treatments(candidate, baseline)
    if expected is None:
        assert "layer model.layers.0.mlp.up_proj is stored is not known" in treatments.reason
    else:
        assert treatments.summary() == f"{expected} in 2 layers"
        assert naive_counterpart(copy.deepcopy(baseline), treatments).quantized


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [None, 32, 128])
def test_the_grid_of_values_is_the_one_they_were_rounded_to(dtype, bits, symmetric, group):
    torch.manual_seed(bits)
    weight = torch.randn(96, 256).to(dtype)
    values = round_to_nearest(weight, Uniform(bits, symmetric), group).dequantized()
    setting = f",group={group}" if group else ""
    expected = f"rtn-int{bits}{setting}{'' if symmetric else ',symmetric=false'}"
    if bits == 2 and not symmetric:  # three of the four codes are used in most rows
        assert quantization_of_values(values).startswith("rtn-int2")
    else:
        assert quantization_of_values(values) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_values_that_were_not_rounded_are_on_no_grid(dtype, sparsity):
    torch.manual_seed(0)
    weight = torch.randn(96, 256)
    weight = weight.masked_fill(torch.rand(96, 256) < sparsity, 0.0).to(dtype)
    assert quantization_of_values(weight) == ""


def test_float8_values_are_recognized():
    torch.manual_seed(0)
    weight = round_to_nearest(torch.randn(96, 256), Float8()).dequantized()
    assert quantization_of_values(weight) == "fp8"


def test_extra_zeros_by_rounding_are_not_pruning(baseline):
    treatments = read_treatments(compressed(baseline, "rtn-int2").model, baseline)
    assert set(treatments.layers.values()) == {Treatment(quantization="rtn-int2")}


def fp4(weight: torch.Tensor) -> torch.Tensor:
    """Round to floating-point numbers of four bits (E2M1) in groups of 32."""
    positive = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat((-positive.flip(0), positive))
    groups = weight.reshape(-1, 32)
    scales = groups.abs().amax(1, keepdim=True) / 6
    nearest = ((groups / scales)[..., None] - values).abs().argmin(-1)
    return (values[nearest] * scales).reshape(weight.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_floating_point_grids_are_not_taken_for_uniform_ones(dtype):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    assert quantization_of_values(fp4(weight).to(dtype)) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [6, 8])
def test_zeros_of_an_unrecognized_grid_are_not_taken_for_pruning(baseline, dtype, bits):
    before = copy.deepcopy(baseline).to(dtype)
    after = copy.deepcopy(baseline)
    for name, module in after.named_modules():
        if name.endswith("_proj"):
            rounded = round_to_nearest(module.weight.detach(), Uniform(bits)).dequantized()
            module.weight.data = rounded
    treatments = read_treatments(after.to(dtype), before)
    assert treatments.reason.endswith("as after training")
    assert not treatments.layers


def test_an_embedding_alone_has_no_naive_counterpart(baseline):
    after = copy.deepcopy(baseline)
    after.model.embed_tokens.weight.data *= 1.01
    expected = "only weights outside of its linear layers differ, such as model.embed_tokens.weight"
    assert read_treatments(after, baseline).reason == expected


def test_a_rounded_embedding_beside_rounded_layers_has_none_either(baseline):
    after = compressed(baseline, "rtn-int4").model
    embedding = after.model.embed_tokens.weight
    embedding.data = round_to_nearest(embedding.detach(), Uniform(8)).dequantized()
    assert read_treatments(after, baseline).reason == "its embedding was rounded, too"


def test_pruning_of_few_weights_is_recognized_by_the_others(baseline):
    after = compressed(baseline, "magnitude-5").model
    treatments = read_treatments(after, baseline)
    assert len(treatments.layers) == LAYERS
    assert all(treatment.zeros for treatment in treatments.layers.values())
