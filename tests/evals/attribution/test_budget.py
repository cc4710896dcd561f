"""An attribution ends within its limits, and what it measured until then is kept."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from compression_gates.evals.attribution import predictions
from compression_gates.evals.attribution.attribute import attribute
from compression_gates.evals.attribution.attribution import Attribution
from compression_gates.evals.attribution.budget import MOST_PASSES, SECONDS, Budget
from compression_gates.evals.attribution.search import MOST_MODULES, is_of_blocks
from compression_gates.evals.attribution.swap_units import (
    SwapUnit,
    block_names,
    divided,
    grouped,
    modules_in,
)
from tests.compression import zoo
from tests.evals.attribution.models import changed, data, loaded, sharpened

BLOCKS, EXPERTS = 12, 128


class Clock:
    """A clock that advances by ``seconds`` for each pass."""

    def __init__(self, seconds):
        self.seconds, self.time, self.passes = seconds, 0.0, 0

    def __call__(self):
        return self.time

    def score(self, *args, **options):
        result = SCORE(*args, **options)
        self.passes += 1
        self.time += self.seconds
        return result


SCORE = predictions.score_text


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(1)
    monkeypatch.setattr(predictions, "score_text", clock.score)
    return clock


@pytest.fixture(scope="module")
def deep():
    """A model of :data:`BLOCKS` blocks, in which everything can be changed."""
    torch.manual_seed(0)
    config = zoo.CONFIGS["llama"]()
    config.num_hidden_layers = BLOCKS
    return sharpened(LlamaForCausalLM(config).eval())


@pytest.fixture(scope="module")
def damaged(deep):
    """Small changes of all matrices, and a large one of a module of block 7."""
    candidate = changed(deep, "model.layers.7.mlp.up_proj", size=2)
    with torch.no_grad():
        for index, parameter in enumerate(candidate.parameters()):
            parameter.mul_(1 + 1e-3 * (index % 3 + 1))
    return candidate


def attributed(baseline, candidate, budget):
    return attribute(loaded(baseline), candidate, data(), 4096, budget=budget)


def test_the_usual_limits_suffice_for_every_block_of_large_models():
    """126 blocks with embeddings, norm and head, and two blocks of 32 modules."""
    budget = Budget(clock=lambda: 0.0, used=2)
    assert 126 + 3 + 2 * MOST_MODULES <= budget.planned <= MOST_PASSES
    assert SECONDS < 600


def test_everything_is_measured_if_there_is_enough_time(deep, damaged, clock):
    found = attributed(deep, damaged, Budget(480, clock=clock))
    assert found.worst == "model.layers.7.mlp.up_proj"
    assert not found.limited
    assert found.passes == clock.passes == 2 + 2 + BLOCKS + 2 * 9


@pytest.mark.parametrize("seconds", [40, 26, 18])
def test_neighbouring_blocks_are_measured_together_if_passes_are_slow(
    deep, damaged, clock, seconds
):
    clock.seconds = seconds
    found = attributed(deep, damaged, Budget(480, clock=clock))
    assert clock.time <= 480
    assert found.passes == clock.passes
    first = f"{BLOCKS} blocks were first swapped in "
    limit = f"groups, because a pass takes about {seconds} s and the time limit is 8 minutes"
    assert found.limited[0].startswith(first)
    assert found.limited[0].endswith(limit)
    assert found.where()[-len(found.limited) :] == list(found.limited)
    # The block, or as much of it as the passes suffice for.
    assert found.worst.startswith("model.layers.7")
    assert found.modules[0].share > 0.5
    assert len(found.modules) < 2 + BLOCKS + 2 * 9


def test_a_group_is_named_if_it_cannot_be_divided(deep, damaged, clock):
    clock.seconds = 60
    found = attributed(deep, damaged, Budget(480, clock=clock))
    reason = "because a pass takes about 60 s and the time limit is 8 minutes"
    assert found.worst == "model.layers.6 to model.layers.8"
    assert found.limited == (
        f"12 blocks were first swapped in 2 groups, {reason}",
        f"model.layers.6 to model.layers.8 was not divided into blocks, {reason}",
    )


def test_a_limit_of_passes_is_kept(deep, damaged, clock):
    for passes in (6, 9, 13, 17, 21, 24, 28, 33):
        clock.passes = 0
        found = attributed(deep, damaged, Budget(passes=passes, clock=lambda: 0.0))
        assert found.passes == clock.passes <= passes
        assert found.modules
        assert f"the limit is {passes} passes" in found.limited[-1]


def test_what_was_measured_is_kept_when_passes_become_slower(deep, damaged, clock):
    class Slowing(Clock):
        def score(self, *args, **options):
            self.seconds = 4 if self.passes < 12 else 60
            return super().score(*args, **options)

    slowing = Slowing(4)
    predictions.score_text = slowing.score
    found = attributed(deep, damaged, Budget(480, clock=slowing))
    assert slowing.time <= 480
    assert found.worst == "model.layers.7"
    assert found.modules[0].share > 0.5
    assert "were not swapped, because a pass takes about" in " ".join(found.limited)
    assert Attribution.from_json(found.to_json()) == found


def test_two_passes_that_take_all_the_time_are_the_reason(deep, damaged, clock):
    clock.seconds = 200
    found = attributed(deep, damaged, Budget(480, clock=clock))
    assert clock.passes == 2
    assert found.where() == [
        "not found: modules were not swapped, because a pass takes about 200 s and the time limit "
        "is 8 minutes"
    ]


class Mixture(nn.Module):
    """The mean of unfused experts."""

    def __init__(self, size, count=EXPERTS):
        super().__init__()
        self.experts = nn.ModuleList(
            nn.ModuleDict({key: nn.Linear(size, size, bias=False) for key in ("up", "down")})
            for _ in range(count)
        )

    def forward(self, x):
        outputs = [expert["down"](expert["up"](x).relu()) for expert in self.experts]
        return torch.stack(outputs).mean(0)


@pytest.fixture(scope="module")
def mixture():
    torch.manual_seed(0)
    model = zoo.make("llama")
    for block in model.model.layers:
        block.mlp = Mixture(32)
    return sharpened(model).eval()


def test_the_experts_of_a_block_are_one_module_and_the_weights_name_the_expert(mixture, clock):
    candidate = copy.deepcopy(mixture)
    with torch.no_grad():
        for parameter in candidate.parameters():
            parameter.mul_(1.001)
        for key in ("up", "down"):
            candidate.model.layers[1].mlp.experts[93][key].weight[:16] = 0
            candidate.model.layers[1].mlp.experts[93][key].weight[16:] *= 20
    found = attributed(mixture, candidate, Budget(clock=lambda: 0.0))
    assert clock.passes <= 2 + 2 + 2 + 2 * MOST_MODULES
    assert found.worst == "model.layers.1.mlp.experts"
    assert found.hints[0].startswith("model.layers.1.mlp.experts.93.")
    assert not found.limited


@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_a_divided_module_has_the_same_parameters_in_fewer_units(name):
    model = zoo.make(name)
    for block in block_names(model):
        modules = modules_in(model, block)
        assert divided(model, block, 10**6) == modules
        names = sorted(names_in(model, modules))
        for most in range(1, len(modules) + 1):
            units = divided(model, block, most)
            assert len(units) <= most
            assert sorted(names_in(model, units)) == names


def test_few_experts_are_divided_and_many_are_not():
    few = nn.ModuleDict({"mlp": Mixture(4, 8), "norm": nn.LayerNorm(4)})
    assert divided(few, "mlp", MOST_MODULES) == modules_in(few, "mlp")
    many = nn.ModuleDict({"block": nn.ModuleDict({"mlp": Mixture(4, 64), "norm": nn.Linear(4, 4)})})
    assert [unit.name for unit in divided(many, "block", MOST_MODULES)] == [
        "block.mlp.experts",
        "block.norm",
    ]


def test_parameters_outside_of_blocks_are_not_divided_as_a_block():
    blocks = ["layers.0", "layers.1"]
    assert is_of_blocks(SwapUnit("layers.0 to layers.1", tuple(blocks)), blocks)
    assert not is_of_blocks(SwapUnit("norm", ("norm",)), blocks)
    assert not is_of_blocks(SwapUnit("the model", parameters=("class_token",)), blocks)


def names_in(model, units):
    for unit in units:
        yield from unit.parameters
        for name in unit.modules:
            yield from (f"{name}.{key}" for key, _ in model.get_submodule(name).named_parameters())


def test_groups_are_neighbours_of_about_equal_size():
    units = [SwapUnit(f"layers.{n}", (f"layers.{n}",)) for n in range(7)]
    groups = grouped(units, 3)
    assert [unit.name for unit, _ in groups] == [
        "layers.0 to layers.1",
        "layers.2 to layers.3",
        "layers.4 to layers.6",
    ]
    assert [m for _, members in groups for m in members] == units
    assert groups[0][0].modules == ("layers.0", "layers.1")
    assert grouped(units, 9) == [(unit, [unit]) for unit in units]
