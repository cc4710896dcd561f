"""User-defined methods in recipes."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compression_gates.compression import catalogue
from compression_gates.compression.apply import compress
from compression_gates.compression.catalogue import METHODS, load_entry_points, register_method
from compression_gates.compression.errors import CompressionError, RecipeError
from compression_gates.compression.recipe import Recipe


@pytest.fixture
def register(monkeypatch):
    """``register(name, function)``, undone at the end of the test."""
    monkeypatch.setattr(catalogue, "METHODS", METHODS)
    before = dict(METHODS)
    yield register_method
    METHODS.clear()
    METHODS.update(before)


def halve(model):
    """Halves every weight."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


def test_registered_function_is_applied(tiny_llama, register):
    register("halve", halve)
    before = copy.deepcopy(tiny_llama.state_dict())
    compressed = compress(tiny_llama, Recipe.parse("halve+magnitude-50"))
    weight = compressed.model.model.layers[0].mlp.up_proj.weight
    kept = weight != 0
    assert kept.float().mean() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(weight[kept], before["model.layers.0.mlp.up_proj.weight"][kept] * 0.5)
    assert METHODS["halve"].source == "Halves every weight."


def test_function_can_return_another_model(tiny_llama, register):
    other = copy.deepcopy(tiny_llama)
    register("other", lambda model: other)
    assert compress(tiny_llama, Recipe.parse("other")).model is other


@pytest.mark.parametrize("result", [3, nn.Linear(2, 2)])
def test_invalid_return_value(tiny_llama, register, result):
    register("wrong", lambda model: result)
    with pytest.raises(
        CompressionError, match=r"wrong: the function returned .*; return a PreTrained"
    ):
        compress(tiny_llama, Recipe.parse("wrong"))


def test_position_and_settings(tiny_llama, register):
    register("halve", halve)
    with pytest.raises(RecipeError, match="halve after magnitude-50 is not allowed"):
        compress(tiny_llama, Recipe.parse("magnitude-50+halve"))
    with pytest.raises(RecipeError, match="include"):
        Recipe.parse("halve,include=*mlp*")


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("rtn", halve, "exists already \\(built in\\)"),
        ("my method", halve, "letters"),
        (3, halve, "letters"),
        ("mine", 3, "method mine: 3 is not callable"),
    ],
)
def test_invalid_names(register, name, function, message):
    with pytest.raises(CompressionError, match=message):
        register(name, function)


class Scale:
    def __call__(self, model):
        return model


@pytest.mark.parametrize(
    "make", [lambda: lambda model: model, Scale, lambda: functools.partial(halve)]
)
def test_reregistration_replaces_the_function(register, make):
    register("mine", make())
    again = make()
    register("mine", again)
    assert METHODS["mine"].implementation is again


def test_name_conflict(register):
    register("mine", halve)
    both = rf"mine exists already \({__name__}\.halve\); register {__name__}\.Scale under"
    with pytest.raises(CompressionError, match=both):
        register("mine", Scale())
    assert METHODS["mine"].implementation is halve


@pytest.fixture
def points(monkeypatch, register):
    """``points(name=function)`` defines entry points of a distribution ``others``."""
    load_entry_points.cache_clear()
    yield lambda **functions: monkeypatch.setattr(
        catalogue,
        "entry_points",
        lambda group: [
            SimpleNamespace(
                name=name, value=f"others:{name}", load=load, dist=SimpleNamespace(name="others")
            )
            for name, load in functions.items()
        ],
    )
    load_entry_points.cache_clear()


def no_module():
    raise ImportError("no module named others")


@pytest.mark.parametrize(
    ("name", "load", "message"),
    [
        ("broken", no_module, "no module named others"),
        ("broken", lambda: 3, "3 is not callable"),
        ("rtn", lambda: halve, "method rtn exists already"),
    ],
)
def test_broken_entry_points_are_reported_on_every_load(points, name, load, message):
    points(mine=lambda: halve, **{name: load})
    for _ in range(2):
        with pytest.raises(
            CompressionError, match=f"entry point {name} = others:{name} of others: .*{message}"
        ):
            load_entry_points()
        assert "mine" not in METHODS
    points(mine=lambda: halve)
    assert Recipe.parse("mine").steps[0].entry.implementation is halve


def test_recipe_settings_depend_on_the_function(register):
    register("halve", halve)
    one = Recipe.parse("halve").settings()
    METHODS.pop("halve")
    register("halve", lambda model: None)
    assert Recipe.parse("halve").settings() != one
