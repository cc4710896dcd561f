"""All ways to visit groups of layers give the same statistics, bit for bit."""

import copy
import gc
import threading
import warnings

import pytest
import torch
from torch import nn

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration
from compression_gates.compression.calibration import driver
from compression_gates.compression.calibration.coroutine import THREADS
from compression_gates.compression.calibration.driver import collect, visit_groups
from compression_gates.compression.calibration.replay import is_replayable
from compression_gates.compression.calibration.resources import Resources, using
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.layers import backbone_layers
from compression_gates.compression.recipe import Recipe
from tests.compression import zoo
from tests.compression.test_calibration import recorded_inputs

RECIPES = ("wanda-50", "sparsegpt-50", "gptq-int4")
SLOW = ("albert", "funnel", "xlm")
"""Architectures whose blocks are not called in sequence, or receive more than one output."""
REPEATED = ("prophetnet",)
"""Architectures with blocks that call a layer more than once."""
KINDS = (
    *("llama", "gemma3", "phi3", "gpt2", "falcon", "opt", "bloom", "gemma3_vision"),
    *("mixtral", "gpt_oss", "llama4", "mamba", "jamba", "recurrent_gemma", "xlnet"),
    *("bert", "deberta_v2", "mobilebert", "longformer", "t5", "bart", "nllb_moe"),
    *SLOW,
    *REPEATED,
)
"""Architectures that call their blocks in different ways: decoders with two and four norms, fused
projections, parallel branches, learned positions, ALiBi and images; experts and recurrent states;
encoders with relative positions, bottlenecks and windows; two stacks. The others need --full."""
ZOO = ("llama", "gpt2", "mixtral", "bert", "albert", "t5")
"""Models for the recipes that replace weights from products of inputs."""


def full_unless(default):
    return [] if default else pytest.mark.full


ONE_PASS, SEVERAL_RUNS, FROM_START = "_in_one_pass", "_in_several_runs", "_from_start"


@pytest.fixture
def visited(monkeypatch):
    """Return the set of the ways in which blocks were visited."""
    ways = set()
    for name in (ONE_PASS, SEVERAL_RUNS, FROM_START):
        visit = getattr(driver, name)
        monkeypatch.setattr(
            driver, name, lambda *args, name=name, visit=visit: ways.add(name) or visit(*args)
        )
    return ways


def compressed(make, text, data, memory=None):
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = compress(model, Recipe.parse(text), data, resources=Resources(memory))
    return result.model.state_dict(), result


def assert_same(before, after):
    (state, result), (expected, other) = before, after
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name
    assert result.notes == other.notes
    assert result.quantized.keys() == other.quantized.keys()


def check_paths(monkeypatch, visited, make, text, data):
    """Assert that all ways leave the same weights and notes, and return the first one's ways."""
    first = compressed(make, text, data)
    ways = set(visited)
    visited.clear()
    assert_same(compressed(make, text, data, memory=0), first)
    assert visited <= {SEVERAL_RUNS, FROM_START}
    visited.clear()
    with monkeypatch.context() as patch:
        patch.setattr(driver, "is_replayable", lambda *_: False)
        assert_same(compressed(make, text, data), first)
    assert visited == {FROM_START}
    return ways


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(name, text, marks=full_unless(name in ZOO and text != "wanda-50"))
        for name in zoo.CONFIGS
        for text in RECIPES
    ],
)
def test_all_ways_leave_the_same_weights(monkeypatch, visited, batches, name, text):
    check_paths(monkeypatch, visited, lambda: zoo.make(name), text, zoo.inputs(name, batches))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(name, text, marks=full_unless(name in KINDS and text == "wanda-50"))
        for name in sorted(ARCHITECTURES.keys() - {"ibert"})
        for text in RECIPES
    ],
)
def test_all_ways_agree_on_every_architecture(monkeypatch, visited, name, text):
    make = ARCHITECTURES[name].make
    ways = check_paths(monkeypatch, visited, make, text, calibration(make()))
    repeated = {ONE_PASS, SEVERAL_RUNS} if name in REPEATED else {ONE_PASS}
    assert ways == ({FROM_START} if name in SLOW else repeated)


def test_rounded_inputs_reach_later_layers_in_all_ways(monkeypatch, visited, tiny_llama, batches):
    text = "gptq-int8,activations=true"
    ways = check_paths(monkeypatch, visited, lambda: copy.deepcopy(tiny_llama), text, batches)
    assert ways == {ONE_PASS}


class Stack(nn.Module):
    """Three blocks and the computation that calls them."""

    def __init__(self, call):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.call = call

    def forward(self, x):
        return self.call(self.layers, x)


def sequence(layers, x):
    for layer in layers:
        x = layer(x) * 2
    return x


def residual(layers, x):
    for layer in layers:
        x = x + layer(x)
    return x


def skip_connection(layers, x):
    first = layers[0](x)
    return layers[2](layers[1](first) + first)


def in_place(layers, x):
    return layers[2](layers[1](layers[0](x).relu_()))


@pytest.mark.parametrize(
    ("call", "expected"),
    [(sequence, True), (residual, False), (skip_connection, False), (in_place, False)],
)
@torch.no_grad()
def test_models_that_pass_more_than_the_previous_output_are_not_replayable(call, expected):
    torch.manual_seed(0)
    model = Stack(call)
    names = [f"layers.{number}" for number in range(3)]
    assert is_replayable(model, names, {"x": torch.randn(2, 4)}) == expected
    assert not any("forward" in vars(layer) for layer in model.layers)


def test_objects_that_can_hold_state_are_not_replayable(tiny_llama, batches):
    names = [f"model.layers.{number}" for number in range(2)]
    with torch.no_grad():
        tiny_llama.config.use_cache = True
        assert not is_replayable(tiny_llama, names, batches[0])
        tiny_llama.config.use_cache = False
        assert is_replayable(tiny_llama, names, batches[0])


@pytest.mark.parametrize(("memory", "runs"), [(None, 1), (0, 4)])
def test_how_often_a_block_runs(tiny_encoder, batches, memory, runs):
    """With less memory up to each of its groups but the first, and to its end."""
    model, sizes = tiny_encoder("bert"), []
    for layer in model.bert.encoder.layer:
        layer.attention.self.register_forward_hook(
            lambda _, __, output: sizes.append(len(output[0]))
        )
    with using(Resources(memory)):
        list(visit_groups(model, backbone_layers(model), batches, with_products=False))
    blocks = len(model.bert.encoder.layer)
    assert sizes.count(3) == runs * blocks * len(batches)
    # Two passes on the first text trace the calls and check that kept outputs can be used.
    assert sizes.count(1) == 2 * blocks


def test_experts_share_the_runs_of_a_block(monkeypatch):
    """With little memory: queries to values, output, both layers of experts, and once more."""
    model = ARCHITECTURES["mixtral"].make()
    batches, runs = calibration(model), []
    until = driver.Replay.until
    monkeypatch.setattr(
        driver.Replay,
        "until",
        lambda self, name, *forward: (
            runs.extend([name][len(forward) :]) or until(self, name, *forward)
        ),
    )
    with using(Resources(memory=0)):
        visits = list(visit_groups(model, backbone_layers(model), batches, False))
    first, last = list(dict.fromkeys(runs))
    assert (runs.count(first), runs.count(last)) == (5, 4)
    experts = model.config.num_local_experts
    assert [len(visit) for visit in visits] == 2 * [3, 1, experts, experts]


@pytest.mark.parametrize("memory", [None, 0])
def test_layers_receive_what_the_compressed_layers_before_them_give(tiny_llama, batches, memory):
    layers = backbone_layers(tiny_llama)
    order = []
    with using(Resources(memory)), torch.no_grad():
        for group in visit_groups(tiny_llama, layers, batches, with_products=False):
            order.append([name.rpartition(".")[2] for name in group])
            for name, statistics in group.items():
                inputs = recorded_inputs(tiny_llama, layers[name], batches)
                assert torch.allclose(statistics.norm, inputs.double().norm(dim=0), rtol=1e-5)
            for name in group:
                layers[name].weight.mul_(0.5)
    block = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert order == 2 * block


@pytest.mark.parametrize("groups", [0, 1, 2, 5])
def test_ending_early_ends_all_threads_and_restores_the_model(tiny_llama, batches, groups):
    layers = backbone_layers(tiny_llama)
    visits = visit_groups(tiny_llama, layers, batches, with_products=False)
    for _ in range(groups):
        next(visits)
    visits.close()
    check_restored(tiny_llama)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_a_later_block_ends_all_threads(tiny_llama, batches, error):
    def fail(module, inputs):
        if len(inputs[0]) > 1:
            raise error

    handle = tiny_llama.model.layers[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(error):
        list(visit_groups(tiny_llama, backbone_layers(tiny_llama), batches, False))
    handle.remove()
    check_restored(tiny_llama)


def test_an_abandoned_calibration_ends_all_threads(tiny_llama, batches):
    next(visit_groups(tiny_llama, backbone_layers(tiny_llama), batches, False))
    gc.collect()
    check_restored(tiny_llama)


def check_restored(model):
    assert THREADS not in [thread.name for thread in threading.enumerate()]
    for module in model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_pre_hooks


def test_batches_that_call_layers_in_different_orders_are_an_error(tiny_llama, batches):
    """The first text determines the order."""
    block = tiny_llama.model.layers[0]
    forward = block.mlp.forward

    def other_order(x):
        if len(x) > 1:
            block.mlp.down_proj(block.mlp.act_fn(block.mlp.gate_proj(block.self_attn.o_proj(x))))
        return forward(x)

    block.mlp.forward = other_order
    layers = backbone_layers(tiny_llama)
    with pytest.raises(CompressionError, match=r"o_proj: .* different orders; give --memory 0"):
        list(visit_groups(tiny_llama, layers, batches, with_products=False))
    with using(Resources(memory=0)):
        assert len(list(visit_groups(tiny_llama, layers, batches, with_products=False))) == 8


def test_a_caller_can_run_the_model_between_blocks(tiny_llama, batches):
    with torch.no_grad():
        before = tiny_llama(**batches[0]).logits
        for _ in visit_groups(tiny_llama, backbone_layers(tiny_llama), batches, False):
            assert torch.equal(tiny_llama(**batches[0]).logits, before)
            assert not any("forward" in vars(module) for module in tiny_llama.modules())


def test_an_error_restores_the_model(tiny_llama, batches):
    with torch.no_grad():
        before = tiny_llama(**batches[0]).logits
    layers = backbone_layers(tiny_llama)
    broken = [*batches, {"input_ids": torch.full((1, 4), 999)}]
    with pytest.raises(IndexError):
        list(visit_groups(tiny_llama, layers, broken, with_products=False))
    assert not any("forward" in vars(module) for module in tiny_llama.modules())
    with torch.no_grad():
        assert torch.equal(tiny_llama(**batches[0]).logits, before)


def test_masks_without_padding_are_left_out(tiny_llama, batches):
    seen = []
    tiny_llama.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append("attention_mask" in kwargs), with_kwargs=True
    )
    whole = {"input_ids": torch.ones(2, 5).long(), "attention_mask": torch.ones(2, 5).long()}
    layers = backbone_layers(tiny_llama)
    collect(tiny_llama, layers, [whole], with_products=False)
    assert seen == [False, False]
    collect(tiny_llama, layers, batches[:1], with_products=False)
    assert seen[2:] == [True, True]


def test_magnitudes_and_products_are_recorded_on_request(tiny_llama, batches):
    layers = backbone_layers(tiny_llama)
    for moments in collect(tiny_llama, layers, batches, with_products=False).values():
        assert moments.products is moments.absolutes is moments.largest is None
    seen = collect(tiny_llama, layers, batches, with_products=True, with_magnitudes=True)
    for name, moments in seen.items():
        assert moments.products.shape == (layers[name].in_features,) * 2
        assert (moments.largest * moments.tokens >= moments.absolutes).all()
