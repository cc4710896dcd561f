"""Smaller models against the original with the removed channels set to zero."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration, tokenizer
from compression_gates.compression.checkpoint.saving import METHOD, PLAIN, form_of, save
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.recipe import Recipe
from compression_gates.compression.structured import cutting
from compression_gates.fixtures.world import tokenizers as vocabulary
from tests.compression import zoo

FFN = {
    "llama": PLAIN, "mistral": PLAIN, "qwen2": PLAIN, "qwen3": PLAIN, "gemma2": PLAIN,
    "gemma3": PLAIN, "phi3": PLAIN, "opt": PLAIN, "gpt2": PLAIN, "gpt_neox": PLAIN,
    "bloom": METHOD, "bert": PLAIN, "roberta": PLAIN, "albert": PLAIN, "distilbert": PLAIN,
    "deberta": PLAIN, "bart": PLAIN, "t5": PLAIN,
}  # fmt: skip
HEADS = {
    "llama": PLAIN, "mistral": PLAIN, "qwen2": PLAIN, "qwen3": PLAIN, "gemma2": PLAIN,
    "gemma3": PLAIN, "phi3": PLAIN, "mixtral": PLAIN, "opt": METHOD, "gpt2": METHOD,
    "gpt_neox": METHOD, "bert": METHOD, "roberta": METHOD, "albert": METHOD, "distilbert": METHOD,
    "deberta": METHOD, "bart": METHOD, "t5": PLAIN,
}  # fmt: skip
CASES = [
    pytest.param(method, kind, form, marks=pytest.mark.full if kind in zoo.SIMILAR else [])
    for method, forms in (("ffn", FFN), ("heads", HEADS))
    for kind, form in forms.items()
]


def apply(model, text, batches=()):
    return compress(model, Recipe.parse(text), batches)


def kept_columns(dense, small):
    """Return by layer which inputs were kept, found by comparing the values of columns."""
    layers = all_layers(small)
    kept = {}
    for name, layer in all_layers(dense).items():
        if layer.in_features != layers[name].in_features:
            equal = (layer.weight.T[:, None] == layers[name].weight.T[None]).all(-1)
            assert equal.sum(0).tolist() == [1] * layers[name].in_features
            kept[name] = equal.any(1)
    return kept


def masked(dense, kept):
    """Return a copy of the dense model with the columns that are not kept set to zero."""
    model = copy.deepcopy(dense)
    with torch.no_grad():
        for name, layer in all_layers(model).items():
            if name in kept:
                layer.weight[:, ~kept[name]] = 0.0
    return model


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def assert_equal_models(loaded, model, forward):
    """Check that weights are equal bit by bit, and outputs up to the order of sums."""
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(t, expected[name]) for name, t in loaded.state_dict().items())
    torch.testing.assert_close(forward(loaded), forward(model), rtol=1e-5, atol=1e-6)


def auto_of(model):
    if model.config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    return AutoModelForCausalLM if causal else AutoModelForSequenceClassification


@pytest.mark.parametrize(("method", "kind", "form"), CASES)
def test_smaller_model_equals_the_masked_one_and_loads(tiny, forward, tmp_path, method, kind, form):
    # The kernel of the experts does not support float64.
    model = tiny(kind, torch.float32 if kind == "mixtral" else torch.float64)
    dense = copy.deepcopy(model)
    result = apply(model, f"{method}-50")
    kept = kept_columns(dense, model)
    assert kept
    assert all(int(columns.sum()) * 2 == len(columns) for columns in kept.values())
    if method == "heads":
        # Two of four heads, or one of two key-value groups with both of its heads.
        parts = 2 if hasattr(dense.config, "num_key_value_heads") else 4
        for columns in kept.values():
            assert (columns.view(parts, -1).sum(1) % (len(columns) // parts) == 0).all()
    tolerance = 1e-5 if kind == "mixtral" else 1e-12
    torch.testing.assert_close(forward(model), forward(masked(dense, kept)), rtol=0, atol=tolerance)
    assert form_of(result) == form
    # Loading a model creates its constants in float32.
    model.float()
    save(result, vocabulary.causal(64), tmp_path / "out")
    loaded, report = auto_of(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert size(loaded) == size(model) < size(dense)
    assert_equal_models(loaded, model, forward)


@pytest.mark.parametrize(
    ("kind", "text", "fewer"),
    [
        ("llama", "ffn-25", 2 * 12 * 3 * 32),
        ("llama", "heads-50", 2 * (2 * 16 + 2 * 8) * 32),
        ("gpt2", "ffn-50", 2 * 64 * (2 * 32 + 1)),
        ("gpt2", "heads-25", 2 * 8 * (4 * 32 + 3)),
        ("albert", "ffn-50", 24 * (2 * 32 + 1)),
        ("albert", "heads-50", 16 * (4 * 32 + 3)),
    ],
)
def test_number_of_removed_parameters(tiny, kind, text, fewer):
    model = tiny(kind)
    before = size(model)
    apply(model, text)
    assert before - size(model) == fewer


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        *((kind, "sdpa") for kind in ("opt", "gpt2", "gpt_neox", "phi3")),
        *((kind, "eager") for kind in ("gpt2", "phi3")),
        *(pytest.param(kind, "eager", marks=pytest.mark.full) for kind in ("opt", "gpt_neox")),
    ],
)
def test_generation_is_the_same_with_and_without_cache(tiny, batches, kind, attention):
    model = tiny(kind, attn_implementation=attention)
    apply(model, "heads-50")
    ids = batches[0]["input_ids"][:1]
    options = dict(max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    with torch.no_grad():
        generated = [model.generate(ids, use_cache=cached, **options) for cached in (True, False)]
    assert torch.equal(*generated)


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(torch.float32, marks=pytest.mark.full), torch.float16, torch.bfloat16],
)
@pytest.mark.parametrize("text", ["ffn-50", "heads-50"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "deberta"])
def test_every_dtype(tiny, forward, dtype, text, kind):
    model = tiny(kind, dtype)
    apply(model, text)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert forward(model).isfinite().all()


@pytest.mark.parametrize("text", ["ffn-0", "heads-0,score=taylor", "heads-10"])
def test_model_is_unchanged_if_no_unit_is_removed(tiny, batches, text):
    model = tiny("llama")
    before = copy.deepcopy(model.state_dict())
    result = apply(model, text, batches)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert form_of(result) == PLAIN
    assert bool(result.notes) == (text == "heads-10")


@pytest.mark.parametrize("method", ["ffn", "heads"])
def test_one_unit_remains_at_full_sparsity(tiny, forward, method):
    model = tiny("bert")
    apply(model, f"{method}-100")
    width = 1 if method == "ffn" else 8
    name = "output.dense" if method == "ffn" else "attention.output.dense"
    layer = model.get_submodule(f"bert.encoder.layer.0.{name}")
    assert layer.in_features == width
    assert forward(model).isfinite().all()


def test_result_is_deterministic(tiny, batches):
    first, second = tiny("gpt2"), tiny("gpt2")
    for model, seed in ((first, 1), (second, 2)):
        torch.manual_seed(seed)
        apply(model, "heads-50,score=taylor+ffn-50,score=activation", batches)
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_patterns_match_consumers_and_producers(tiny, forward, tmp_path):
    for pattern in ("*.0.mlp.down_proj", "*.0.mlp.up_proj", "*.layers.0.*"):
        model = tiny("llama")
        result = apply(model, f"ffn-50,include={pattern}")
        assert model.config.intermediate_size == 48
        sizes = [layer.mlp.down_proj.in_features for layer in model.model.layers]
        assert sizes == [24, 48]
    assert set(result.layout.resized) == {
        f"model.layers.0.mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")
    }
    save(result, vocabulary.causal(64), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=model.dtype)
    assert_equal_models(loaded, model, forward)
    model = tiny("llama")
    apply(model, "ffn-50,exclude=*.0.mlp.gate_proj")
    sizes = [layer.mlp.down_proj.in_features for layer in model.model.layers]
    assert sizes == [48, 24]


def test_layers_of_equal_size_after_two_steps_give_a_plain_checkpoint(tiny, forward, tmp_path):
    model = tiny("llama")
    result = apply(model, "ffn-50,include=*.0.mlp*+ffn-50,include=*.1.mlp*")
    assert form_of(result) == PLAIN
    assert model.config.intermediate_size == model.model.layers[0].mlp.intermediate_size == 24
    save(result, vocabulary.causal(64), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=model.dtype)
    assert_equal_models(loaded, model, forward)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("llama", "heads-50+ffn-50"),
        ("bert", "heads-50+ffn-50"),
        ("gpt2", "heads-50+heads-50"),
        ("llama", "svd-50+heads-50+ffn-50"),
        ("gpt2", "svd-50,include=*c_attn+heads-50+ffn-50"),
        ("opt", "magnitude-50+heads-50+ffn-50"),
        ("gpt2", "heads-50+rtn-int8"),
        ("llama", "ffn-50+magnitude-2:4"),
    ],
)
def test_several_steps_are_saved_and_loaded(tiny, forward, tmp_path, kind, text):
    model = tiny(kind, torch.float32)
    result = apply(model, text)
    save(result, vocabulary.causal(64), tmp_path / "out")
    loaded = auto_of(model).from_pretrained(tmp_path / "out", dtype=model.dtype)
    assert size(loaded) <= size(model) or result.quantized
    assert_equal_models(loaded, model, forward)


def test_pruned_weights_remain_zero(tiny):
    model = tiny("llama")
    dense = copy.deepcopy(model)
    apply(model, "magnitude-50+ffn-50")
    for name, layer in all_layers(model).items():
        if name.endswith(("gate_proj", "up_proj")):
            rows = [row for row in layer.weight if (row == 0).any()]
            assert len(rows) == len(layer.weight) < len(all_layers(dense)[name].weight)


def test_shared_configuration_is_not_changed(tiny):
    model = tiny("llama")
    config = model.config
    apply(model, "ffn-50")
    assert config.intermediate_size == 48
    assert model.config.intermediate_size == model.model.config.intermediate_size == 24


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("mixtral", "ffn-50", r"layers\.0\.mlp\.experts\.\w+\.0: experts of a mixture"),
        (
            "t5",
            "heads-50,include=*.SelfAttention.*",
            r"encoder\.block\.0\.layer\.0\.SelfAttention\.o: T5For.* 2 of its 4",
        ),
        (
            "t5",
            "heads-50,exclude=*encoder.block.1*",
            r"encoder\.block\.1\.layer\.0\.SelfAttention\.o: its heads share encoder\.block\.0",
        ),
        ("phi3", "heads-50,include=*.1.*o_proj", r"layers\.1\.self_attn\.o_proj: Phi3ForCausalLM"),
        ("bloom", "heads-50", r"heads: BloomForCausalLM uses ALiBi, whose slopes"),
        ("phi3", "magnitude-50+heads-50,include=*.1.*o_proj", r"Phi3ForCausalLM does not compute"),
        ("t5", "magnitude-50+heads-50,include=*.SelfAttention.*", r"T5For.* 2 of its 4"),
        ("olmo2", "heads-50", r"layers\.0\.self_attn\.q_proj: neither it .* Olmo2ForCausalLM"),
        ("mamba", "ffn-50", r"layers\.0\.mixer\.in_proj: neither it .* MambaForCausalLM"),
        ("llama", "ffn-50,include=*_attn*", r"layers\.0\.self_attn\.q_proj: neither it nor"),
        ("llama", "ffn-50,include=*fc1", r"pattern '\*fc1' matches no linear layer"),
    ],
)
def test_units_that_cannot_be_removed_raise_without_a_change(tiny, forward, kind, text, message):
    model = tiny(kind, torch.float32)
    before, modules = forward(model), list(model.modules())
    attributes = [copy.copy(vars(module)) for module in modules]
    with pytest.raises(RecipeError, match=message):
        apply(model, text)
    assert list(model.modules()) == modules
    assert [vars(module) for module in modules] == attributes
    assert torch.equal(forward(model), before)


@pytest.mark.parametrize("member", ["self_attn.k_proj", "self_attn.o_proj"])
def test_cut_that_changes_the_outputs_is_undone(tiny, forward, monkeypatch, member):
    def wrong(model, cut, undo):
        cutting.resize(model, cut, undo)
        weight = model.get_submodule(f"model.layers.1.{member}").weight
        weight.copy_(weight.roll(1, 0))

    model = tiny("llama", num_key_value_heads=4)
    before = forward(model)
    monkeypatch.setattr("compression_gates.compression.structured.shrink.resize", wrong)
    with pytest.raises(RecipeError, match=r"self_attn\.o_proj: LlamaForCausalLM does not compute"):
        apply(model, "heads-50,include=*.1.*")
    assert torch.equal(forward(model), before)


@pytest.mark.parametrize("score", ["magnitude", "activation", "taylor"])
def test_heads_that_share_position_biases_are_removed_together(tiny, batches, score):
    model = tiny("t5", torch.float32)
    dense = copy.deepcopy(model)
    labelled = [{**b, "labels": b["input_ids"].masked_fill(b["attention_mask"] == 0, -100)}
                for b in batches]  # fmt: skip
    apply(model, f"heads-50,score={score}", labelled)
    kept = kept_columns(dense, model)
    for stack in ("encoder", "decoder"):
        name = f"{stack}.block.0.layer.0.SelfAttention"
        columns = [x for key, x in kept.items() if key.startswith(stack) and "SelfA" in key]
        assert len(columns) == 2
        assert torch.equal(columns[0], columns[1])
        heads = columns[0].view(4, -1).any(1)
        table = dense.get_submodule(name).relative_attention_bias.weight
        after = model.get_submodule(name).relative_attention_bias
        assert torch.equal(after.weight, table[:, heads])
        assert after.embedding_dim == 2
    assert model.config.num_heads == 2


@pytest.mark.parametrize("name", ["mt5", "umt5", "longt5", "switch_transformers"])
def test_heads_of_models_like_t5(name, tmp_path):
    model = ARCHITECTURES[name].make()
    dense = copy.deepcopy(model)
    result = apply(model, "heads-50,score=magnitude")
    (batch, *_) = calibration(dense)
    with torch.no_grad():
        expected = masked(dense, kept_columns(dense, model))(**batch).logits
        torch.testing.assert_close(model(**batch).logits, expected)
    assert save(result, tokenizer(), tmp_path / "out") == PLAIN


@pytest.mark.parametrize("name", ["mpt", "bloom"])
def test_heads_of_models_with_alibi_raise(name):
    with pytest.raises(RecipeError, match="slopes depend on the number of heads"):
        apply(ARCHITECTURES[name].make(), "heads-50,score=magnitude")


def test_units_that_cannot_be_removed_raise_before_an_earlier_step():
    for name, text in (("codegen", "magnitude-50+heads-50,score=magnitude"),
                       ("mpnet", "rtn-int8,include=*dense+heads-50,score=magnitude,exclude=*dense"),
                       ("gpt_oss", "magnitude-50+heads-50,score=magnitude")):  # fmt: skip
        model = ARCHITECTURES[name].make()
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(RecipeError):
            apply(model, text, calibration(model))
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())


def test_single_group_of_heads_raises(tiny):
    with pytest.raises(RecipeError, match="has more than one unit that heads can remove"):
        apply(tiny("llama", num_key_value_heads=1), "heads-50")
