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


def test_scales_by_hand():
    # sqrt gives 1, 2, 4; divided by sqrt(4 * 1)
    scales = activation_aware_scales(torch.tensor([1.0, 4.0, 16.0]), 0.5)
    assert torch.allclose(scales, torch.tensor([0.5, 1.0, 2.0]))


def test_no_exponent_is_no_scale_to_the_last_bit():
    assert activation_aware_scales(torch.rand(50) * 100, 0.0).tolist() == [1.0] * 50


def test_a_dead_feature_keeps_scale_one_and_moves_no_other():
    scales = activation_aware_scales(torch.tensor([1.0, 0.0, 16.0]), 0.5)
    assert torch.allclose(scales, torch.tensor([0.5, 1.0, 2.0]))
    assert activation_aware_scales(torch.zeros(3), 0.5).tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.floats(0, 2.0**127, width=32), min_size=1, max_size=5), st.floats(0, 1))
def test_scales_are_finite_and_above_zero(magnitudes, alpha):
    scales = activation_aware_scales(torch.tensor(magnitudes), alpha)
    assert scales.isfinite().all()
    assert (scales > 0).all()


@pytest.mark.parametrize("group", [None, 4])
def test_the_error_is_that_of_the_outputs(group):
    torch.manual_seed(0)
    weight, inputs, columns = torch.randn(5, 8), torch.randn(30, 8), torch.rand(8) + 0.5
    hessian = 2 * inputs.T @ inputs / 30
    rounded = round_to_nearest(weight * columns, Uniform(3), group).dequantized()
    outputs = (inputs / columns) @ rounded.T - inputs @ weight.T
    error = rounding_error(weight, columns, hessian, Uniform(3), group)
    assert math.isclose(error, 2 * outputs.square().sum() / 30, rel_tol=1e-4)


def test_the_search_takes_the_least_error_and_prefers_no_scale():
    magnitudes = torch.tensor([1.0, 100.0])
    target = activation_aware_scales(magnitudes, 0.3)
    found = search(magnitudes, lambda scales: (scales - target).square().sum(), 10)
    assert torch.equal(found, target)
    assert search(magnitudes, lambda scales: torch.tensor(1.0), 10).tolist() == [1.0, 1.0]
    asked = []
    search(magnitudes, lambda scales: asked.append(scales) or torch.tensor(1.0), 10)
    assert len(asked) == 10


def test_a_salient_channel_is_protected():
    torch.manual_seed(0)
    weight, inputs = torch.randn(16, 32), torch.randn(200, 32)
    inputs[:, 3] *= 40
    hessian, grid = inputs.T @ inputs / 200, Uniform(3)
    found = search(inputs.abs().mean(0), lambda s: rounding_error(weight, s, hessian, grid), 20)
    none = rounding_error(weight, torch.ones(32), hessian, grid)
    assert found.argmax() == 3
    assert rounding_error(weight, found, hessian, grid) < none / 3
