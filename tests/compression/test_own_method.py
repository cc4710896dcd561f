"""Methods of a user are used in recipes as those of the package are."""

import copy

import pytest
import torch
from torch import nn

from compression_gates.compression import catalogue
from compression_gates.compression.apply import compress
from compression_gates.compression.catalogue import METHODS, register_method
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


def test_a_function_is_a_step_of_a_recipe(tiny_llama, register):
    register("halve", halve)
    before = copy.deepcopy(tiny_llama.state_dict())
    made = compress(tiny_llama, Recipe.parse("halve+magnitude-50"))
    weight = made.model.model.layers[0].mlp.up_proj.weight
    kept = weight != 0
    assert kept.float().mean() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(weight[kept], before["model.layers.0.mlp.up_proj.weight"][kept] * 0.5)
    assert METHODS["halve"].source == "Halves every weight."


def test_a_function_may_return_another_model(tiny_llama, register):
    other = copy.deepcopy(tiny_llama)
    register("other", lambda model: other)
    assert compress(tiny_llama, Recipe.parse("other")).model is other


@pytest.mark.parametrize("result", [3, nn.Linear(2, 2)])
def test_what_is_no_model_is_refused(tiny_llama, register, result):
    register("wrong", lambda model: result)
    with pytest.raises(
        CompressionError, match=r"wrong: its function returned .*, not a PreTrained"
    ):
        compress(tiny_llama, Recipe.parse("wrong"))


def test_it_comes_first_and_has_no_settings(tiny_llama, register):
    register("halve", halve)
    with pytest.raises(RecipeError, match="halve after magnitude-50 is too late"):
        compress(tiny_llama, Recipe.parse("magnitude-50+halve"))
    with pytest.raises(RecipeError, match="include"):
        Recipe.parse("halve,include=*mlp*")


@pytest.mark.parametrize(("name", "why"), [("rtn", "exists already"), ("my method", "letters")])
def test_names_that_are_taken_or_are_none(register, name, why):
    with pytest.raises(CompressionError, match=why):
        register(name, halve)


def test_another_function_of_the_name_is_another_recipe(register):
    register("halve", halve)
    one = Recipe.parse("halve").settings()
    METHODS.pop("halve")
    register("halve", lambda model: None)
    assert Recipe.parse("halve").settings() != one
