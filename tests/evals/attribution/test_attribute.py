"""Attribution names the module that was changed, in few passes, and restores the baseline."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertForQuestionAnswering

from compression_gates.compression.apply import compress
from compression_gates.compression.recipe import Recipe
from compression_gates.evals.attribution import attribute as attribute_module
from compression_gates.evals.attribution import predictions
from compression_gates.evals.attribution.attribute import attribute
from compression_gates.evals.attribution.swap_units import block_names, modules_in
from compression_gates.evals.checkpoints.checkpoint import EXTRACTIVE
from compression_gates.evals.data.items import DataSet, Prompt, Question
from tests.compression import zoo
from tests.evals.attribution.models import (
    SEQUENCES,
    changed,
    data,
    loaded,
    sharpened,
    zoo_baseline,
)


def attributed(baseline, candidate, **options):
    return attribute(baseline, candidate, data(baseline.checkpoint.kind), 4096, **options)


def state_of(model):
    modules = [(name, id(module)) for name, module in model.named_modules(remove_duplicate=False)]
    return modules, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_restored(model, before):
    modules, tensors = before
    assert state_of(model)[0] == modules
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def most(model):
    """The largest number of passes: both models, everything outside of blocks, the blocks, and the
    modules of the two largest ones."""
    blocks = block_names(model)
    sizes = sorted(len(modules_in(model, name)) for name in blocks)
    return 2 + len(modules_in(model, without=blocks)) + len(blocks) + sum(sizes[-2:])


@pytest.fixture
def passes(monkeypatch):
    """Return the calls of the scorers."""
    calls = []
    for name in ("score_text", "classify", "extract"):
        score = getattr(predictions, name)
        monkeypatch.setattr(
            predictions, name, lambda *a, s=score, **k: calls.append(1) or s(*a, **k)
        )
    return calls


@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_a_module_of_each_architecture_is_named(passes, name):
    baseline = zoo_baseline(name)
    model, before = baseline.model, state_of(baseline.model)
    block = block_names(model)[-1]
    matrices = [
        unit
        for unit in modules_in(model, block)
        if any(p.ndim > 1 for p in model.get_submodule(unit.name).parameters())
    ]
    for unit in (matrices[len(matrices) // 2], matrices[-1]):
        passes.clear()
        module = model.get_submodule(unit.name)
        parameter = next(key for key, p in module.named_parameters() if p.ndim > 1)
        found = attributed(baseline, changed(model, unit.name, parameter))
        assert found.worst == unit.name
        assert found.modules[0].share == pytest.approx(1, abs=1e-6)
        assert found.unexplained == pytest.approx(0, abs=1e-6)
        assert found.passes == len(passes) <= most(model)
        assert_restored(model, before)


@pytest.mark.parametrize("name", ["gpt_neox", "bert", "t5", "opt"])
def test_modules_outside_of_blocks_and_biases_are_named(passes, name):
    baseline = zoo_baseline(name)
    model = baseline.model
    units = modules_in(model, without=block_names(model))
    tested = 0
    for unit in units:
        if not unit.modules:
            continue
        for parameter, _ in model.get_submodule(unit.name).named_parameters():
            candidate = changed(model, unit.name, parameter)
            found = attributed(baseline, candidate)
            if found.reason:
                assert "token_type" in unit.name or "the baseline's" in found.reason
                continue
            assert found.worst.startswith(unit.name) or unit.name in found.worst
            tested += 1
    assert tested >= 3


def test_every_module_is_changed_and_the_bound_holds(passes):
    baseline = zoo_baseline("llama")
    candidate = sharpened(zoo.make("llama"))
    with torch.no_grad():
        for parameter in candidate.parameters():
            parameter.mul_(1.01)
    found = attributed(baseline, candidate)
    assert len(passes) == found.passes <= most(baseline.model)
    blocks = 2
    assert len(found.modules) == 2 + blocks * 9  # the tied embedding, the norm, and all modules
    total = sum(module.share for module in found.modules)
    assert found.unexplained == pytest.approx(1 - total)


def test_tied_weights_are_one_unit_and_untied_ones_two(tiny_llama):
    baseline = loaded(sharpened(tiny_llama))
    tied = attributed(baseline, changed(tiny_llama, "model.embed_tokens"))
    assert tied.worst == "model.embed_tokens (with lm_head)"
    assert tied.modules[0].share == pytest.approx(1)
    untied = copy.deepcopy(tiny_llama)
    untied.lm_head.weight = nn.Parameter(untied.lm_head.weight.detach().roll(1, 0))
    found = attributed(baseline, untied)
    assert found.worst == "lm_head"
    assert [module.name for module in found.modules] == ["lm_head"]


def test_a_shared_block_is_one_block(passes):
    model = zoo_baseline("albert").model
    assert len(block_names(model)) == 1


def test_the_baseline_is_restored_after_an_error(monkeypatch, tiny_llama):
    baseline = loaded(tiny_llama)
    before, calls = state_of(tiny_llama), []

    def fail(*args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("no power")
        return score(*args, **options)

    score = predictions.score_text
    monkeypatch.setattr(predictions, "score_text", fail)
    candidate = changed(changed(tiny_llama, "model.layers.0.mlp.up_proj"), "model.norm")
    with pytest.raises(RuntimeError, match="no power"):
        attributed(baseline, candidate.half())
    assert_restored(tiny_llama, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in candidate.modules())


def test_rounded_activations_are_swapped_with_their_module(tiny_llama):
    """The weights are equal; a hook on the module of the candidate rounds its inputs."""
    candidate = copy.deepcopy(sharpened(tiny_llama))
    name = "model.layers.1.mlp.gate_proj"
    candidate.get_submodule(name).register_forward_pre_hook(
        lambda module, args: (args[0].round(decimals=0),)
    )
    found = attributed(loaded(tiny_llama), candidate)
    assert found.worst == name
    assert found.unexplained == pytest.approx(0, abs=1e-6)


def test_packed_weights_and_rounded_activations_of_a_library(tiny_llama):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    baseline, before = loaded(sharpened(tiny_llama)), state_of(tiny_llama)
    candidate = changed(tiny_llama, "model.layers.1.self_attn.k_proj")
    quantize_(candidate, Int8DynamicActivationInt8WeightConfig())
    found = attributed(baseline, candidate)
    assert found.worst == "model.layers.1.self_attn.k_proj"
    assert len(found.modules) == 14 + 1  # all linear layers of the blocks, and the head
    assert found.tensors[0]["error"] == pytest.approx(0.5, rel=0.01)
    assert_restored(tiny_llama, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_candidate_of_another_dtype_computes_in_it(tiny_llama, dtype):
    baseline, before = loaded(sharpened(tiny_llama)), state_of(tiny_llama)
    candidate = changed(tiny_llama, "model.layers.0.self_attn.v_proj").to(dtype)
    found = attributed(baseline, candidate)
    assert found.worst == "model.layers.0.self_attn.v_proj"
    assert found.modules[0].share > 0.9
    assert_restored(tiny_llama, before)


def test_numbers_that_are_not_finite_are_named(tiny_llama):
    candidate = copy.deepcopy(tiny_llama)
    with torch.no_grad():
        candidate.model.layers[1].mlp.down_proj.weight[3, 5] = torch.nan
    found = attributed(loaded(tiny_llama), candidate)
    assert found.worst == "model.layers.1.mlp.down_proj"
    assert found.where() == [
        "with model.layers.1.mlp.down_proj alone, the baseline's predictions are not finite"
    ]


@pytest.mark.parametrize("recipe", ["svd-50", "heads-50", "ffn-50", "heads-50+ffn-50"])
def test_smaller_modules_are_swapped_with_what_fits_around_them(tiny_llama, batches, recipe):
    baseline, before = loaded(sharpened(tiny_llama)), state_of(tiny_llama)
    candidate = compress(copy.deepcopy(tiny_llama), Recipe.parse(recipe), batches).model
    found = attributed(baseline, candidate)
    names = {module.name.rpartition(".")[2] for module in found.modules}
    expected = {
        "svd-50": {"q_proj", "down_proj"},
        "heads-50": {"self_attn"},
        "ffn-50": {"mlp"},
        "heads-50+ffn-50": {"self_attn", "mlp"},
    }[recipe]
    assert expected <= names
    assert not found.not_swapped
    assert_restored(tiny_llama, before)


def test_a_student_is_not_attributed_and_the_reason_is_given(tiny_llama):
    config = copy.deepcopy(tiny_llama.config)
    config.num_hidden_layers = 1
    found = attributed(loaded(tiny_llama), type(tiny_llama)(config).eval())
    assert found.where() == [
        "not found: modules cannot be swapped, because the candidate has 1 block and the baseline "
        "2 blocks"
    ]
    config = copy.deepcopy(tiny_llama.config)
    config.hidden_size, config.head_dim = 16, 4
    before = state_of(tiny_llama)
    found = attributed(loaded(tiny_llama), type(tiny_llama)(config).eval())
    assert not found.modules
    assert "model.embed_tokens.weight is (64, 16) in the candidate and (64, 32)" in found.reason
    assert_restored(tiny_llama, before)


def test_a_block_is_named_if_its_modules_explain_little_alone(tiny_llama):
    """Both factors of a product are negated, so each of them alone changes everything, and both
    nothing; the third module makes the whole differ."""
    baseline = loaded(sharpened(tiny_llama))
    candidate = changed(tiny_llama, "model.layers.0.input_layernorm", size=0.05)
    with torch.no_grad():
        for part in ("up", "down"):
            candidate.get_submodule(f"model.layers.0.mlp.{part}_proj").weight.neg_()
    found = attributed(baseline, candidate)
    assert found.unexplained < -1
    assert found.blocks[0].name == "model.layers.0"
    assert found.blocks[0].share == pytest.approx(1)
    assert found.where()[0].endswith("overlap or cancel; model.layers.0 as a whole 100%")


def test_equal_predictions_have_no_cause(tiny_llama):
    found = attributed(loaded(tiny_llama), copy.deepcopy(tiny_llama))
    assert "are the baseline's" in found.reason
    assert found.modules == ()


def test_units_with_equal_weights_are_run_if_the_configurations_differ(tiny_llama, passes):
    candidate = changed(tiny_llama, "model.norm")
    few = attributed(loaded(tiny_llama), candidate).passes
    found = attributed(loaded(tiny_llama), candidate, configuration=("they differ in x",))
    assert found.passes > few
    assert found.where()[0] == "they differ in x; this may not show in single modules"


def test_an_extractive_model():
    torch.manual_seed(0)
    config = zoo.CONFIGS["bert"]()
    model = sharpened(BertForQuestionAnswering(config).eval())
    items = tuple(Question("w1 w2", text, "w3", i) for i, text in enumerate(SEQUENCES))
    candidate = changed(model, "bert.encoder.layer.0.output.dense")
    baseline = loaded(model, EXTRACTIVE)
    found = attribute(baseline, candidate, DataSet("questions", items), 4096)
    assert found.worst == "bert.encoder.layer.0.output.dense"
    found = attribute(baseline, changed(model, "qa_outputs"), DataSet("questions", items), 4096)
    assert found.worst == "qa_outputs"


def test_responses_are_predicted_and_bare_prompts_are_texts(tiny_llama):
    baseline = loaded(sharpened(tiny_llama))
    candidate = changed(tiny_llama, "model.layers.0.mlp.up_proj")
    for response in ("w3 w4", ""):
        items = tuple(Prompt(text, response, i) for i, text in enumerate(SEQUENCES))
        found = attribute(baseline, candidate, DataSet("prompts", items), 4096)
        assert found.worst == "model.layers.0.mlp.up_proj"
        assert found.tokens >= 72


def test_few_tokens_are_used_of_many(monkeypatch, tiny_llama):
    baseline = loaded(tiny_llama)
    part, tokens = predictions.small_part(baseline, data(), limit=30)
    assert tokens == 30
    assert [len(item.text.split()) for item in part.items] == [12, 12, 6]
    one, tokens = predictions.small_part(baseline, data(), limit=5)
    assert (len(one.items), tokens) == (1, 5)
    assert attribute_module.small_part(baseline, data())[1] == 72
