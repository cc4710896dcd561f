"""The function of a method is determined only by its entry in the catalogue."""

import copy
from dataclasses import replace

import pytest
import torch

from compression_gates.compression import catalogue
from compression_gates.compression.apply import compress
from compression_gates.compression.catalogue import METHODS
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.recipe import Recipe

ONE_OF_EACH_FAMILY = {
    catalogue.QUANTIZATION: "rtn-int8",
    catalogue.SCALING: "smoothquant",
    catalogue.PRUNING: "magnitude-50",
    catalogue.STRUCTURED: "ffn-25",
    catalogue.LOW_RANK: "svd-50",
    catalogue.DISTILLATION: "distill,steps=1",
    catalogue.STORAGE: "bitmask",
}


class Called(BaseException):
    """The function of an entry was called."""


def called(*arguments):
    raise Called(arguments)


@pytest.fixture
def add(monkeypatch):
    """``add(method, **changes)`` registers a copy of a method's entry as ``mine``."""

    def make(method, **changes):
        entry = replace(METHODS[method], name="mine", **changes)
        monkeypatch.setitem(METHODS, "mine", entry)
        return entry

    return make


def renamed(recipe):
    return recipe.replace(Recipe.parse(recipe).steps[0].method, "mine", 1)


def test_all_families_are_covered():
    assert ONE_OF_EACH_FAMILY.keys() == {method.family for method in METHODS.values()}


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_binds_a_function(name):
    assert callable(METHODS[name].implementation)


@pytest.mark.parametrize("name", METHODS)
def test_missing_function_raises(name):
    with pytest.raises(CompressionError, match="method mine: no function"):
        replace(METHODS[name], name="mine", function="")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "compression_gates.compression.quantization.nowhere:f",
            "'compression_gates.compression.quantization.nowhere:f' cannot be im",
        ),
        ("compression_gates.compression.quantization.gptq:nowhere", "cannot be imported"),
        ("compression_gates.compression.quantization.gptq", "cannot be imported"),
        ("compression_gates.compression.quantization.gptq:BLOCK", "is not callable"),
    ],
)
@pytest.mark.parametrize("recipe", ONE_OF_EACH_FAMILY.values())
def test_invalid_function_raises_before_any_change(
    tiny_llama, batches, add, recipe, function, message
):
    add(Recipe.parse(recipe).steps[0].method, function=function)
    before = copy.deepcopy(tiny_llama.state_dict())
    with pytest.raises(CompressionError, match=f"method mine: .*{message}"):
        compress(tiny_llama, Recipe.parse(["magnitude-30", renamed(recipe)]), batches)
    assert all(torch.equal(t, before[name]) for name, t in tiny_llama.state_dict().items())


@pytest.mark.parametrize("recipe", ONE_OF_EACH_FAMILY.values())
def test_function_of_the_entry_is_called(tiny_llama, batches, add, recipe):
    add(Recipe.parse(recipe).steps[0].method, function=called)
    with pytest.raises(Called):
        compress(tiny_llama, Recipe.parse(renamed(recipe)), batches)


@pytest.mark.parametrize(
    "recipe",
    [
        "rtn-int4", "gptq-int4", "lsq-int4,iterations=3", "fp8", "log-int4", "smoothquant",
        "awq-int4", "magnitude-50", "wanda-2:4", "sparsegpt-50", "taylor-50",
        "movement-50,steps=2", "ffn-25", "heads-50", "svd-50", "svdllm-50",
        "distill-1layers,steps=2", "bitmask",
    ],
)  # fmt: skip
def test_results_do_not_depend_on_the_name(tiny_llama, batches, add, recipe):
    add(Recipe.parse(recipe).steps[0].method)
    results = []
    for source in (recipe, renamed(recipe)):
        torch.manual_seed(0)
        result = compress(copy.deepcopy(tiny_llama), Recipe.parse(source), batches)
        results.append(result)
    one, two = (result.model.state_dict() for result in results)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_user_defined_quantizer(tiny_llama, add):
    """A callable in an entry has the arguments documented in its family's step module."""
    from compression_gates.compression.quantization.grids import Uniform, round_to_nearest

    def towards_two_bits(weight, step, seen, keep_zeros):
        assert seen is None
        return round_to_nearest(weight, Uniform(2), step["group"])

    add("rtn", function=towards_two_bits)
    result = compress(tiny_llama, Recipe.parse("mine-int8"))
    assert isinstance(result, Compressed)
    assert {quantized.grid.bits for quantized in result.quantized.values()} == {2}
