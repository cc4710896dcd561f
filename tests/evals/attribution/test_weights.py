"""Tensors side by side: closed forms, grids of known bits, and the robust z-score."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation
from torch import nn

from compression_gates.compression.low_rank.factors import LowRank
from compression_gates.evals.attribution import tensor_comparison
from compression_gates.evals.attribution.tensor_comparison import (
    FEWEST_OTHERS,
    TensorComparison,
    bits_of,
    compare_tensor,
    compare_tensors,
    remarkable,
    robust_z_scores,
)


def weight(rows=64, columns=512, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rounded(tensor, bits, group):
    groups = tensor.unflatten(1, (-1, group))
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((groups / scale).round() * scale).flatten(1)


def test_the_numbers_of_a_tensor():
    before, after = torch.tensor([[3.0, 4.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0, -1.0]])
    found = compare_tensor("w", before, after)
    assert found.error == pytest.approx(math.sqrt(17) / 5)
    assert (found.zeros, found.baseline_zeros) == (0.5, 0.5)
    assert (found.largest, found.baseline_largest) == (3.0, 4.0)
    assert math.isnan(compare_tensor("w", torch.zeros(2, 2), torch.ones(2, 2)).error)


@pytest.mark.parametrize(
    ("bits", "group"), [(2, 512), (3, 128), (4, 512), (4, 128), (4, 64), (8, 512)]
)
def test_bits_of_a_grid(bits, group):
    before = weight(columns=512 if bits < 8 else 4096)
    group = group if bits < 8 else 4096
    assert bits_of(rounded(before, bits, group), before) == bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_of_other_weights_are_blank(dtype):
    before = weight(columns=4096).to(dtype)
    assert bits_of(before, before) is None
    assert bits_of(before * 1.5, before) is None
    pruned = before.masked_fill(before.abs() < 1, 0)
    assert bits_of(pruned, before) is None
    # Too few weights in a row to tell 8 bits from floats.
    assert bits_of(rounded(weight(columns=96), 8, 96), weight(columns=96)) is None
    assert bits_of(torch.ones(4), torch.zeros(4)) is None


def test_pruned_and_rounded_weights_have_bits():
    before = weight()
    assert bits_of(rounded(before.masked_fill(before.abs() < 0.6, 0), 4, 128), before) == 4


VALUES = st.floats(-1e3, 1e3) | st.sampled_from([0.0, 1.0, 2.0])


@given(st.lists(VALUES, min_size=5, max_size=12), st.floats(1e-3, 10))
def test_the_robust_z_scores_are_those_of_the_normal_mad_of_the_others(values, floor):
    expected = []
    for index, value in enumerate(values):
        others = np.delete(values, index)
        scale = max(1.4826 * median_abs_deviation(others), floor)
        expected.append((value - np.median(others)) / scale)
    scores = robust_z_scores(np.array(values), floor)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-9)


def test_the_values_of_thousands_of_experts_are_not_compared_pair_by_pair(monkeypatch):
    """48 blocks of 128 experts; an evaluation of each value for each pair would take minutes."""
    read = []
    zeros = tensor_comparison.PROPERTIES[0]
    counted = replace(zeros, value=lambda t: read.append(1) or zeros.value(t))
    monkeypatch.setattr(tensor_comparison, "PROPERTIES", (counted,))
    names = [f"layers.{b}.mlp.experts.{e}.up_proj.weight" for b in range(48) for e in range(128)]
    tensors = {name: TensorComparison(name, 0.01, 0.0, 0.0, 1.0, 1.0, 8) for name in names}
    broken = "layers.17.mlp.experts.93.up_proj.weight"
    tensors[broken] = replace(tensors[broken], zeros=0.5)
    assert remarkable(tensors) == ["layers.17.mlp.experts.93.up_proj: 50% zeros (others 0%)"]
    assert len(read) == len(names)


class Stack(nn.Module):
    def __init__(self, layers):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(128, 64) for _ in range(layers))


def noisy(model, size=0.01):
    candidate = copy.deepcopy(model)
    with torch.no_grad():
        for layer in candidate.layers:
            layer.weight += size * torch.randn_like(layer.weight) * layer.weight.std()
    return candidate


def test_a_time_limit_leaves_the_tensors_of_the_first_module():
    baseline = Stack(6)
    found = compare_tensors(baseline, noisy(baseline), "layers.4", seconds=-1)
    assert list(found) == ["layers.4.weight"]
    names = ["layers.4.weight", "layers.4.bias", "layers.0.weight"]
    assert list(compare_tensors(baseline, noisy(baseline), "layers.4"))[:3] == names


def test_a_tensor_that_stands_out_is_told_with_what_differs():
    baseline = Stack(6)
    candidate = noisy(baseline)
    assert remarkable(compare_tensors(baseline, candidate)) == []
    with torch.no_grad():
        candidate.layers[3].weight[:16] = 0.0
    (line,) = remarkable(compare_tensors(baseline, candidate))
    assert line.startswith("layers.3: 25% zeros (others 0%), error 0.49")
    assert "(others 0.01)" in line
    with torch.no_grad():
        candidate.layers[5].weight[0, 0] = 40.0
    assert remarkable(compare_tensors(baseline, candidate))[0].startswith("layers.5: error")
    assert any(
        "times the baseline's" in x for x in remarkable(compare_tensors(baseline, candidate))
    )


def test_a_smaller_error_than_others_does_not_stand_out():
    baseline = Stack(6)
    candidate = noisy(baseline)
    with torch.no_grad():
        candidate.layers[2].weight.copy_(baseline.layers[2].weight)
    assert remarkable(compare_tensors(baseline, candidate)) == []


def test_fewer_bits_than_others_stand_out():
    baseline = Stack(6)
    candidate = copy.deepcopy(baseline)
    with torch.no_grad():
        for number, layer in enumerate(candidate.layers):
            layer.weight.copy_(rounded(layer.weight, 2 if number == 1 else 4, 128))
    lines = remarkable(compare_tensors(baseline, candidate))
    assert lines[0].startswith("layers.1: ")
    assert "2 bits (others 4)" in lines[0]


def test_numbers_that_are_no_blocks_tell_kinds_apart():
    """The two layers of OPT's feed-forward part are fc1 and fc2."""
    baseline = nn.ModuleDict({"layers": nn.ModuleList()})
    for _ in range(3):
        block = nn.ModuleDict({f"fc{n}": nn.Linear(32, 32) for n in (1, 2)})
        baseline["layers"].append(block)
    candidate = copy.deepcopy(baseline)
    with torch.no_grad():
        candidate["layers"][1]["fc1"].weight.zero_()
    assert remarkable(compare_tensors(baseline, candidate)) == []  # two others each, not five


def test_with_few_others_nothing_stands_out():
    baseline = Stack(FEWEST_OTHERS)
    candidate = noisy(baseline)
    with torch.no_grad():
        candidate.layers[0].weight.zero_()
    assert remarkable(compare_tensors(baseline, candidate)) == []


def test_factored_and_packed_layers_are_compared_by_what_they_multiply_by():
    class Packed(nn.Module):
        """Codes and a scale in place of a weight."""

        def __init__(self, codes, bias):
            super().__init__()
            self.codes, self.bias = nn.Parameter(codes, requires_grad=False), bias

        def forward(self, x):
            return x @ (self.codes.float() / 16).T + self.bias

    baseline = Stack(2)
    candidate = copy.deepcopy(baseline)
    candidate.layers[0] = LowRank(128, 64, 8, bias=True)
    codes = (baseline.layers[1].weight.detach() * 16).round().to(torch.int8)
    candidate.layers[1] = Packed(codes, baseline.layers[1].bias)
    with torch.no_grad():
        found = compare_tensors(baseline, candidate)
        low_rank = candidate.layers[0].second.weight @ candidate.layers[0].first.weight
        before = baseline.layers[0].weight
        expected = (low_rank - before).norm() / before.norm()
        assert found["layers.0.weight"].error == pytest.approx(float(expected), rel=1e-5)
        before = baseline.layers[1].weight
        expected = (codes.float() / 16 - before).norm() / before.norm()
        assert found["layers.1.weight"].error == pytest.approx(float(expected), rel=1e-4)
        assert found["layers.1.bias"].error == 0
