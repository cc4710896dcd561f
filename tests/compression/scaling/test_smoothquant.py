"""SmoothQuant's equation 4."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.compression.scaling.smoothquant import smoothing_scales


def test_scales_are_equation_4():
    scales = smoothing_scales(torch.tensor([16.0, 1.0]), torch.tensor([4.0, 0.25]), 0.5)
    # sqrt(16) / sqrt(4) and sqrt(1) / sqrt(0.25)
    assert torch.allclose(scales, torch.tensor([2.0, 2.0]))
    scales = smoothing_scales(torch.tensor([16.0]), torch.tensor([81.0]), 0.75)
    assert torch.allclose(scales, torch.tensor([8.0 / 3.0]))


@pytest.mark.parametrize(("alpha", "inputs", "weights"), [(1.0, 1.0, 10.0), (0.0, 5.0, 1.0)])
def test_alpha_zero_and_one_move_the_whole_range(alpha, inputs, weights):
    scales = smoothing_scales(torch.tensor([5.0]), torch.tensor([2.0]), alpha)
    # The largest value of the other side becomes 1.
    assert torch.allclose(torch.tensor([5.0]) / scales, torch.tensor(inputs if alpha else 10.0))
    assert torch.allclose(torch.tensor([2.0]) * scales, torch.tensor(weights))


def test_alpha_one_half_makes_the_ranges_equal():
    inputs, weights = torch.rand(20) + 0.1, torch.rand(20) + 0.1
    scales = smoothing_scales(inputs, weights, 0.5)
    assert torch.allclose(inputs / scales, weights * scales)


def test_dead_features_and_zero_weights_have_scale_one():
    inputs, weights = torch.tensor([0.0, 3.0, 0.0]), torch.tensor([3.0, 0.0, 0.0])
    for alpha in (0.0, 0.5, 1.0):
        assert smoothing_scales(inputs, weights, alpha).tolist() == [1.0, 1.0, 1.0]


_SIZES = st.floats(0, 2.0**127, width=32)


@given(inputs=_SIZES, weights=_SIZES, alpha=st.floats(0, 1))
def test_scales_are_finite_and_positive(inputs, weights, alpha):
    scale = smoothing_scales(torch.tensor([inputs]), torch.tensor([weights]), alpha)
    assert scale.isfinite().all()
    assert (scale > 0).all()
