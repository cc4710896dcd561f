"""AWQ scales by hand, and their search."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.compression.quantization.grids import Uniform, round_to_nearest
from compression_gates.compression.scaling.awq import (
    activation_aware_scales,
    rounding_error,
    search,
)


def test_scales_of_three_channels():
    # sqrt gives 1, 2, 4, which are divided by sqrt(4 * 1).
    scales = activation_aware_scales(torch.tensor([1.0, 4.0, 16.0]), 0.5)
    assert torch.allclose(scales, torch.tensor([0.5, 1.0, 2.0]))


def test_alpha_zero_gives_scales_of_exactly_one():
    assert activation_aware_scales(torch.rand(50) * 100, 0.0).tolist() == [1.0] * 50


def test_dead_feature_has_scale_one():
    scales = activation_aware_scales(torch.tensor([1.0, 0.0, 16.0]), 0.5)
    assert torch.allclose(scales, torch.tensor([0.5, 1.0, 2.0]))
    assert activation_aware_scales(torch.zeros(3), 0.5).tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.floats(0, 2.0**127, width=32), min_size=1, max_size=5), st.floats(0, 1))
def test_scales_are_finite_and_positive(magnitudes, alpha):
    scales = activation_aware_scales(torch.tensor(magnitudes), alpha)
    assert scales.isfinite().all()
    assert (scales > 0).all()


@pytest.mark.parametrize("group", [None, 4])
def test_rounding_error_is_the_output_error(group):
    torch.manual_seed(0)
    weight, inputs, columns = torch.randn(5, 8), torch.randn(30, 8), torch.rand(8) + 0.5
    hessian = 2 * inputs.T @ inputs / 30
    rounded = round_to_nearest(weight * columns, Uniform(3), group).dequantized()
    outputs = (inputs / columns) @ rounded.T - inputs @ weight.T
    error = rounding_error(weight, columns, hessian, Uniform(3), group)
    assert math.isclose(error, 2 * outputs.square().sum() / 30, rel_tol=1e-4)


def test_search_returns_the_smallest_error_and_prefers_no_scaling():
    magnitudes = torch.tensor([1.0, 100.0])
    target = activation_aware_scales(magnitudes, 0.3)
    found = search(magnitudes, lambda scales: (scales - target).square().sum(), 10)
    assert torch.equal(found, target)
    assert search(magnitudes, lambda scales: torch.tensor(1.0), 10).tolist() == [1.0, 1.0]
    tried = []
    search(magnitudes, lambda scales: tried.append(scales) or torch.tensor(1.0), 10)
    assert len(tried) == 10


def test_salient_channel_has_a_lower_error():
    torch.manual_seed(0)
    weight, inputs = torch.randn(16, 32), torch.randn(200, 32)
    inputs[:, 3] *= 40
    hessian, grid = inputs.T @ inputs / 200, Uniform(3)
    scales = search(inputs.abs().mean(0), lambda s: rounding_error(weight, s, hessian, grid), 20)
    unscaled = rounding_error(weight, torch.ones(32), hessian, grid)
    assert scales.argmax() == 3
    assert rounding_error(weight, scales, hessian, grid) < unscaled / 3
