"""Units of models that the zoo does not have."""

import torch
from torch import nn

from compression_gates.evals.attribution.swap_units import (
    SwapUnit,
    at_most,
    block_names,
    joined,
    modules_in,
    with_tied_joined,
)
from compression_gates.evals.attribution.swapping import swapped


class Mixer(nn.Module):
    """A module with a parameter of its own beside a layer."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.ones(3))
        self.project = nn.Linear(3, 3)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.project(x * self.decay))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Mixer(), Mixer()])
        self.tail = nn.ModuleList([nn.ModuleList([nn.Linear(3, 3)]), nn.ModuleList([nn.ReLU()])])

    def forward(self, x):
        for layer in (*self.layers, self.tail[0][0]):
            x = layer(x)
        return x


def test_blocks_are_the_elements_of_outermost_lists():
    assert block_names(Model()) == ["layers.0", "layers.1", "tail.0.0"]
    assert block_names(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == ["0", "2"]


def test_parameters_beside_layers_are_a_unit_and_swapped_alone():
    torch.manual_seed(0)
    baseline, candidate = Model(), Model()
    units = modules_in(baseline, "layers.1")
    assert units == [
        SwapUnit("layers.1", parameters=("layers.1.decay",)),
        SwapUnit("layers.1.project", ("layers.1.project",)),
    ]
    with torch.no_grad():
        candidate.layers[1].decay.fill_(2)
    before, project = baseline.layers[1].decay, baseline.layers[1].project
    with swapped(baseline, candidate, units[0]):
        assert baseline.layers[1].decay.tolist() == [2, 2, 2]
        assert baseline.layers[1].project is project
    assert baseline.layers[1].decay is before


def test_a_module_in_two_places_is_swapped_in_both():
    baseline, candidate = Model(), Model()
    baseline.layers[1] = baseline.layers[0]
    candidate.layers[1] = candidate.layers[0]
    with swapped(baseline, candidate, SwapUnit("layers.0", ("layers.0",))):
        assert baseline.layers[0] is baseline.layers[1] is candidate.layers[0]
    assert baseline.layers[0] is baseline.layers[1] is not candidate.layers[0]


def test_units_are_joined_only_if_both_models_tie_them():
    baseline, candidate = Model(), Model()
    units = [SwapUnit(f"layers.{n}.project", (f"layers.{n}.project",)) for n in range(2)]
    baseline.layers[1].project.weight = baseline.layers[0].project.weight
    assert with_tied_joined(units, baseline, candidate) == units
    candidate.layers[1].project.weight = candidate.layers[0].project.weight
    assert with_tied_joined(units, baseline, candidate) == [joined(units)]


def test_neighbours_with_the_longest_common_name_are_joined_first():
    units = [SwapUnit(name, (name,)) for name in ("a.b.c", "a.b.d", "a.e", "f")]
    names = [unit.modules for unit in at_most(units, 3)]
    assert names == [("a.b.c", "a.b.d"), ("a.e",), ("f",)]
    assert len(at_most(units, 1)) == 1
    assert at_most(units, 9) == units
