"""Learned step sizes against equation 3, a scan of step sizes, and Gaussian integrals."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from compression_gates.compression.calibration.hessian import output_error
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.quantization.grids import Uniform, round_to_nearest
from compression_gates.compression.quantization.lsq import _Rounding, learned_steps


def slope(weight, step, highest):
    """Return the gradient of a rounded weight with respect to its step size (equation 3)."""
    ratio = weight / step
    if ratio <= -highest:
        return -highest
    if ratio >= highest:
        return highest
    return round(ratio) - ratio


def correlated(seed, rows, columns):
    """Return a weight and the Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(2 * columns, columns, generator=generator) @ mix
    weight = torch.randn(rows, columns, generator=generator)
    return weight, 2 * inputs.T @ inputs / len(inputs)


def row_errors(quantized, weight, hessian):
    """Return the output error of each row and its uncertainty in float32.

    A float32 quadratic form of n terms is accurate to about ``2 n 2^-24`` times the same form of
    absolute values.
    """
    gap = quantized.dequantized().double() - weight.double()
    hessian = hessian.double()
    uncertainty = 4 * len(hessian) * 2.0**-24 * ((gap.abs() @ hessian.abs()) * gap.abs()).sum(1)
    return ((gap @ hessian) * gap).sum(1), uncertainty


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_gradient_is_equation_3(bits):
    highest = 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    # The steps of the first row are small, so that some weights are outside the range.
    steps = torch.tensor([[0.5], [1.5], [4.0]], dtype=torch.float64) / highest
    steps.requires_grad_()
    upstream = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    rounded = _Rounding.apply(weight, steps, highest)
    (rounded * upstream).sum().backward()
    for row in range(3):
        step = steps[row].item()
        values = weight[row].tolist()
        assert rounded[row].tolist() == pytest.approx(
            [max(-highest, min(highest, round(value / step))) * step for value in values]
        )
        expected = sum(
            slope(value, step, highest) * above
            for value, above in zip(values, upstream[row].tolist(), strict=True)
        )
        assert steps.grad[row].item() == pytest.approx(expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_gradient_at_the_end_of_the_range_is_equation_3(sign):
    # The largest weight of a row is at the end of the range of the uniform grid.
    weight = torch.tensor([[0.2, sign * 1.75]])
    step = torch.tensor([[0.25]], requires_grad=True)
    _Rounding.apply(weight, step, 7)[0, 1].backward()
    assert step.grad.item() == slope(sign * 1.75, 0.25, 7) == sign * 7


@given(
    st.integers(0, 999), st.integers(2, 8), st.sampled_from([None, 2, 4]), st.booleans(),
    st.sampled_from([1e-3, 1.0, 50.0]),
)  # fmt: skip
@settings(max_examples=40)
def test_error_of_each_row_is_at_most_that_of_the_uniform_grid(seed, bits, group, outlier, size):
    weight, hessian = correlated(seed, 4, 8)
    weight *= size
    weight[0, 3] *= 20 if outlier else 1
    weight[1, 2:5] = 0.0
    found = learned_steps(weight, hessian, bits, group, iterations=20)
    errors, uncertainty = row_errors(found, weight, hessian)
    plain, plain_uncertainty = row_errors(
        round_to_nearest(weight, Uniform(bits), group), weight, hessian
    )
    assert (errors <= plain + uncertainty + plain_uncertainty).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, pytest.param(4, marks=pytest.mark.full), 8])
def test_half_precision_error_is_at_most_that_of_the_uniform_grid(dtype, bits):
    for seed in range(3):
        weight, hessian = correlated(seed, 8, 32)
        weight = weight.to(dtype)
        found = learned_steps(weight, hessian, bits, iterations=100)
        assert found.scales.dtype == found.dequantized().dtype == dtype
        errors, uncertainty = row_errors(found, weight, hessian)
        plain, plain_uncertainty = row_errors(
            round_to_nearest(weight, Uniform(bits)), weight, hessian
        )
        assert (errors <= plain + uncertainty + plain_uncertainty).all()


@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("bits", [2, pytest.param(3, marks=pytest.mark.full), 4])
def test_reduction_of_the_error_is_at_least_half_of_the_largest(bits, group):
    plain = learned = best = 0.0
    grid = Uniform(bits)
    for seed in range(3):
        weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))
        hessian = torch.eye(32)
        uniform = round_to_nearest(weight, grid, group)
        plain += float(row_errors(uniform, weight, hessian)[0].sum())
        found = learned_steps(weight, hessian, bits, group)
        learned += float(row_errors(found, weight, hessian)[0].sum())
        # The inputs are independent, so the best step of each group can be found separately.
        parts = weight.unflatten(1, (uniform.scales.shape[1], -1)).double()
        steps = uniform.scales[None, :, :, None].double() * torch.linspace(0.1, 1.2, 221).view(
            -1, 1, 1, 1
        )
        rounded = (parts / steps).round().clamp(-grid.highest, grid.highest) * steps
        best += float((rounded - parts).square().sum(-1).amin(0).sum())
    assert learned < plain
    # Gradient descent is local, and the best iteration is chosen for all groups of a row together.
    assert plain - learned >= 0.5 * (plain - best)


@pytest.mark.parametrize("bits", [2, pytest.param(3, marks=pytest.mark.full), 4])
def test_gaussian_weights_have_the_error_of_the_optimal_uniform_quantizer(bits):
    rows, columns = 8, 512
    highest = 2 ** (bits - 1) - 1

    def moment(step, power):
        """Return a moment of the rounding error of a standard Gaussian."""
        edges = [*((q + 0.5) * step for q in range(highest)), np.inf]
        total, low = 0.0, 0.0
        for q, high in enumerate(edges):
            total += quad(lambda x, q=q: (x - q * step) ** power * norm.pdf(x), low, high)[0]
            low = high
        return 2 * total

    step = minimize_scalar(lambda step: moment(step, 2), bounds=(0.05, 2), method="bounded").x
    expected = moment(step, 2)
    deviation = ((moment(step, 4) - expected**2) / (rows * columns)) ** 0.5
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(bits))
    found = learned_steps(weight, torch.eye(columns), bits)
    error = float((found.dequantized() - weight).double().square().mean())
    # Four standard deviations of the mean over all weights.
    assert abs(error - expected) <= 4 * deviation
    uniform = round_to_nearest(weight, Uniform(bits)).dequantized()
    assert float((uniform - weight).double().square().mean()) > expected + 8 * deviation


@pytest.mark.parametrize("group", [None, 4])
def test_result_is_deterministic(group):
    weight, hessian = correlated(0, 4, 16)
    first, second = (learned_steps(weight, hessian, 3, group, iterations=30) for _ in range(2))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scales, second.scales)
    assert first.scales.shape == (4, 1 if group is None else 4)


def test_rows_are_learned_independently():
    weight, hessian = correlated(1, 6, 16)
    together = learned_steps(weight, hessian, 3, iterations=30)
    alone = learned_steps(weight[2:3], hessian, 3, iterations=30)
    # The order of float32 sums depends on the shape.
    assert torch.allclose(together.scales[2:3], alone.scales, rtol=1e-5)
    assert torch.equal(together.codes[2:3], alone.codes)


def test_learned_steps_depend_on_the_inputs():
    aware = blind = 0.0
    for seed in range(4):
        weight, hessian = correlated(seed, 8, 16)
        found = learned_steps(weight, hessian, 3)
        aware += float(row_errors(found, weight, hessian)[0].sum())
        other = learned_steps(weight, torch.eye(16), 3)
        blind += float(row_errors(other, weight, hessian)[0].sum())
        assert float(row_errors(other, weight, torch.eye(16))[0].sum()) < float(
            row_errors(found, weight, torch.eye(16))[0].sum()
        )
    assert aware < blind


def test_learning_works_under_no_grad():
    weight, hessian = correlated(2, 4, 16)
    with torch.no_grad():
        found = learned_steps(weight, hessian, 2)
    assert (found.scales < round_to_nearest(weight, Uniform(2)).scales).any()
    assert not found.scales.requires_grad


def test_scale_of_the_hessian_has_no_effect():
    weight, hessian = correlated(3, 4, 16)
    first, second = (
        learned_steps(weight, hessian * size, 3, iterations=30) for size in (1.0, 2.0**20)
    )
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scales, second.scales)


def test_zeros_remain_zero():
    weight, hessian = correlated(4, 4, 16)
    weight[0] = 0.0
    weight[1, ::2] = 0.0
    after = learned_steps(weight, hessian, 4, group=4, iterations=30).dequantized()
    assert after.isfinite().all()
    assert not after[weight == 0].any()


def test_group_that_does_not_divide_the_width_raises():
    with pytest.raises(RecipeError, match="group = 4 does not divide an input width of 6"):
        learned_steps(torch.ones(2, 6), torch.eye(6), 4, group=4)


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 999))
def test_output_error_is_a_quadratic_form(rows, columns, seed):
    gap, hessian = correlated(seed, rows, columns)
    expected = np.einsum("ri,ij,rj->r", *(x.double().numpy() for x in (gap, hessian, gap)))
    uncertainty = np.einsum("ri,ij,rj->r", *(x.double().abs().numpy() for x in (gap, hessian, gap)))
    # Two sums of n products in float32.
    assert (abs(output_error(gap, hessian).double().numpy() - expected)
            <= 4 * columns * 2.0**-24 * uncertainty).all()  # fmt: skip


def test_output_error_is_the_mean_squared_difference_of_outputs():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 6, generator=generator)
    gap = torch.randn(3, 6, generator=generator)
    expected = (gap.double() @ inputs.double().T).square().sum(1) * 2 / 50
    found = output_error(gap, 2 * inputs.T @ inputs / 50)
    assert torch.allclose(found.double(), expected, rtol=1e-5)
