"""Visiting blocks on kept outputs gives what running the model from the start for each gives."""

import warnings

import pytest
import torch
from torch import nn

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration
from compression_gates.compression.calibration import driver
from compression_gates.compression.calibration.driver import collect, visit_groups
from compression_gates.compression.calibration.replay import is_replayable
from compression_gates.compression.model.layers import backbone_layers
from compression_gates.compression.recipe import Recipe
from tests.compression import zoo

RECIPES = ("wanda-50", "sparsegpt-50", "gptq-int4")
SLOW = ("albert", "funnel", "xlm")
"""Architectures whose blocks are not called in sequence, or receive more than one output."""


@pytest.fixture
def visited(monkeypatch):
    """Return a list of the ways in which blocks were visited."""
    ways = []
    for name in ("_on_kept_outputs", "_from_start"):
        visit = getattr(driver, name)
        monkeypatch.setattr(
            driver, name, lambda *args, name=name, visit=visit: ways.append(name) or visit(*args)
        )
    return ways


def compressed(make, text, data):
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = compress(model, Recipe.parse(text), data)
    return result.model.state_dict(), result


def check_paths(monkeypatch, make, text, data):
    """Assert that both paths leave the same weights and notes."""
    state, result = compressed(make, text, data)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "is_replayable", lambda *_: False)
        expected, slow = compressed(make, text, data)
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name
    assert result.notes == slow.notes


@pytest.mark.parametrize("text", RECIPES)
@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_both_paths_leave_the_same_weights(monkeypatch, batches, name, text):
    check_paths(monkeypatch, lambda: zoo.make(name), text, zoo.inputs(name, batches))


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, marks=[pytest.mark.full] * (text != "wanda-50")) for text in RECIPES],
)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {"ibert"}))
def test_both_paths_agree_on_every_architecture(monkeypatch, visited, name, text):
    make = ARCHITECTURES[name].make
    check_paths(monkeypatch, make, text, calibration(make()))
    assert visited == ["_from_start" if name in SLOW else "_on_kept_outputs", "_from_start"]


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


def test_each_block_runs_twice_on_each_batch(tiny_encoder, batches):
    model, sizes = tiny_encoder("bert"), []
    for layer in model.bert.encoder.layer:
        layer.attention.register_forward_hook(lambda _, __, output: sizes.append(len(output[0])))
    list(visit_groups(model, backbone_layers(model), batches, with_products=False))
    assert sizes.count(3) == 2 * 3 * len(batches)
    # Two passes on the first text trace the calls and check that kept outputs can be used.
    assert sizes.count(1) == 2 * 3


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
