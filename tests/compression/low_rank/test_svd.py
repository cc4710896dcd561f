"""Truncated SVD and SVD-LLM against singular values of numpy, in float64."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from compression_gates.compression.low_rank.factors import LowRank
from compression_gates.compression.low_rank.svd import DAMPING, factorize, is_smaller, rank_of

HALF = [torch.float16, torch.bfloat16]


@st.composite
def layers(draw):
    """Draw a weight and correlated inputs ``(tokens, columns)`` in float64."""
    rows, columns = draw(st.integers(1, 10)), draw(st.integers(1, 10))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(3 * columns + 5, columns, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return weight, inputs


def singular_values(matrix):
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


def discarded(values, rank):
    """Return the sum of squares of all singular values after the first ``rank``."""
    return float((values[rank:] ** 2).sum())


def damped(products):
    """Return products with the damping of SVD-LLM."""
    return products + DAMPING * products.diagonal().mean() * torch.eye(len(products)).double()


def loss(gap, products):
    return float(((gap @ products) * gap).sum())


@given(layers(), st.floats(0.01, 1))
def test_svd_error_is_the_discarded_singular_values(layer, ratio):
    weight, _ = layer
    first, second = factorize(weight, ratio=ratio)
    values = singular_values(weight)
    lost = float((weight - second @ first).square().sum())
    # Singular values are accurate relative to the largest.
    assert lost == pytest.approx(discarded(values, len(first)), abs=1e-12 * values[0] ** 2)


@given(layers(), st.floats(0.01, 1))
def test_factors_have_the_singular_values_of_the_weight(layer, ratio):
    weight, _ = layer
    first, second = factorize(weight, ratio=ratio)
    rank = len(first)
    assert first.shape == (rank, weight.shape[1])
    assert second.shape == (weight.shape[0], rank)
    values = singular_values(weight)
    found = singular_values(second @ first)[:rank]
    assert np.allclose(found, values[:rank], rtol=0, atol=1e-12 * values[0])
    # Each factor has the square roots.
    for factor in (first, second):
        assert np.allclose(
            singular_values(factor) ** 2, values[:rank], rtol=0, atol=1e-12 * values[0]
        )


@given(layers(), st.floats(0.01, 1))
def test_energy_keeps_the_fewest_singular_values(layer, energy):
    weight, _ = layer
    rank = len(factorize(weight, energy=energy)[0])
    squares = singular_values(weight) ** 2
    total = squares.sum()
    # An energy within rounding of a sum counts as reached.
    assert squares[:rank].sum() >= energy * total * (1 - 1e-11)
    assert rank == 1 or squares[: rank - 1].sum() < energy * total * (1 + 1e-11)


def test_energy_is_the_fraction_of_squared_singular_values():
    values = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64)  # squares: 9 4 1 1 1
    ranks = [
        rank_of(values, 5, 5, None, energy) for energy in (0.1, 9 / 16, 0.57, 13 / 16, 0.9, 1.0)
    ]
    assert ranks == [1, 1, 2, 2, 4, 5]
    assert rank_of(torch.tensor([2.0, 1.0, 0.0, 0.0]), 4, 4, None, 1.0) == 2


@pytest.mark.parametrize(("rows", "columns"), [(100, 100), (96, 32), (7, 300), (1, 1), (64, 192)])
def test_ratio_is_the_largest_fraction_of_parameters(rows, columns):
    values = torch.ones(min(rows, columns))
    for percent in range(1, 101):
        exact = Fraction(percent, 100) * rows * columns / (rows + columns)
        rank = rank_of(values, rows, columns, percent / 100, None)
        assert rank == max(exact.numerator // exact.denominator, 1), percent


@given(layers(), st.sampled_from([{"ratio": 1e-6}, {"energy": 1e-6}]))
def test_rank_is_at_least_one(layer, amount):
    assert len(factorize(layer[0], **amount)[0]) == 1


@pytest.mark.parametrize("products", [None, torch.eye(4)])
def test_weight_of_zeros_has_rank_one(products):
    first, second = factorize(torch.zeros(3, 4), energy=0.9, products=products)
    assert len(first) == 1
    assert not (second @ first).any()


@given(layers(), st.floats(0.01, 1), st.booleans())
def test_svdllm_output_error_is_the_discarded_singular_values(layer, amount, by_energy):
    weight, inputs = layer
    products = inputs.T @ inputs
    kind = {"energy": amount} if by_energy else {"ratio": amount}
    first, second = factorize(weight, **kind, products=products)
    # The singular values of the outputs W X. Damping is equivalent to one more input for each
    # feature.
    strength = (DAMPING * float(products.diagonal().mean())) ** 0.5
    everything = torch.cat([inputs, strength * torch.eye(weight.shape[1]).double()])
    values = singular_values(weight @ everything.T)
    lost = float(((weight - second @ first) @ everything.T).square().sum())
    # The condition number of L, at most 1e3 times the root of the width, multiplies the error.
    assert lost == pytest.approx(discarded(values, len(first)), abs=1e-9 * values[0] ** 2)
    if by_energy:
        squares = values**2
        assert squares[: len(first)].sum() >= amount * squares.sum() * (1 - 1e-9)


def test_svdllm_output_error_without_damping():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    inputs = torch.randn(200, 12, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(9, 12, generator=generator, dtype=torch.float64)
    products = inputs.T @ inputs
    first, second = factorize(weight, ratio=0.6, products=products)
    values = singular_values(weight @ inputs.T)
    lost = float(((weight - second @ first) @ inputs.T).square().sum())
    # Damping increases each eigenvalue of X X^T by at most this fraction.
    share = DAMPING * float(products.diagonal().mean() / torch.linalg.eigvalsh(products)[0])
    assert lost == pytest.approx(discarded(values, len(first)), rel=share)


@given(layers(), st.floats(0.01, 1))
def test_svdllm_output_error_is_at_most_that_of_svd(layer, ratio):
    weight, inputs = layer
    products = damped(inputs.T @ inputs)
    first, second = factorize(weight, ratio=ratio, products=inputs.T @ inputs)
    plain_first, plain_second = factorize(weight, ratio=ratio)
    assert len(first) == len(plain_first)
    whitened = loss(weight - second @ first, products)
    plain = loss(weight - plain_second @ plain_first, products)
    assert whitened <= plain + 1e-9 * loss(weight, products)
    assert (weight - plain_second @ plain_first).norm() <= (
        weight - second @ first
    ).norm() + 1e-9 * weight.norm()


def test_svdllm_output_error_is_much_lower_for_correlated_inputs():
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(3, 24, generator=generator)
    inputs = torch.randn(300, 3, generator=generator) @ few
    inputs += 0.01 * torch.randn(300, 24, generator=generator)
    weight = torch.randn(16, 24, generator=generator)
    products = inputs.T @ inputs
    lost = []
    for given_products in (products, None):
        first, second = factorize(weight, ratio=0.4, products=given_products)
        lost.append(loss((weight - second @ first).double(), products.double()))
    # Almost all of the inputs are in three dimensions.
    assert lost[0] < 1e-2 * lost[1]


@given(layers(), st.floats(0.05, 0.95), st.floats(0.001, 1000))
def test_scale_of_the_products_has_no_effect(layer, ratio, size):
    weight, inputs = layer
    products = inputs.T @ inputs
    first, second = factorize(weight, ratio=ratio, products=products)
    other_first, other_second = factorize(weight, ratio=ratio, products=products * size)
    gap = second @ first - other_second @ other_first
    lost = loss(gap, damped(products))
    assert lost <= 1e-12 * loss(weight, damped(products))


def test_svdllm_with_isotropic_inputs_is_svd():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = factorize(weight, ratio=0.8)
    whitened = factorize(weight, ratio=0.8, products=3 * torch.eye(7).double())
    assert torch.allclose(plain[1] @ plain[0], whitened[1] @ whitened[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_dead_features_give_finite_factors(dtype):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(50, 8, generator=generator)
    inputs[:, [1, 5]] = 0.0
    weight = torch.randn(6, 8, generator=generator).to(dtype)
    first, second = factorize(weight, ratio=0.9, products=inputs.T @ inputs)
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert first.dtype == second.dtype == dtype


def test_svdllm_without_inputs_is_svd():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    plain = factorize(weight, energy=0.8)
    whitened = factorize(weight, energy=0.8, products=torch.zeros(7, 7))
    assert torch.equal(plain[0], whitened[0])
    assert torch.equal(plain[1], whitened[1])


def test_singular_products_give_finite_factors():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(3, 8, generator=generator)
    inputs[:, 7] = inputs[:, 6]
    weight = torch.randn(6, 8, generator=generator)
    first, second = factorize(weight, energy=0.99, products=inputs.T @ inputs)
    assert (second @ first).isfinite().all()
    # The inputs of three tokens have rank three.
    assert len(first) <= 3


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("whitened", [True, False])
def test_half_precision_error_is_the_rounding_of_the_factors(dtype, size, whitened):
    generator = torch.Generator().manual_seed(4)
    weight = (torch.randn(12, 16, generator=generator) * size).to(dtype)
    inputs = torch.randn(80, 16, generator=generator)
    products = inputs.T @ inputs if whitened else None
    first, second = factorize(weight, ratio=0.9, products=products)
    exact = factorize(weight.double(), ratio=0.9, products=products)
    assert first.dtype == second.dtype == dtype
    assert torch.equal(first, exact[0].to(dtype))
    assert torch.equal(second, exact[1].to(dtype))
    gap = (second.double() @ first.double() - exact[1] @ exact[0]).abs()
    # Each element of both factors is rounded by half an ulp.
    bound = exact[1].abs() @ exact[0].abs() * 1.01 * torch.finfo(dtype).eps
    assert (gap <= bound).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_module_computes_the_product(bias, dtype):
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 9, generator=generator).to(dtype)
    first, second = factorize(weight, ratio=0.9)
    module = LowRank(9, 6, len(first), bias).to(dtype)
    with torch.no_grad():
        module.first.weight.copy_(first)
        module.second.weight.copy_(second)
        if bias:
            module.second.bias.copy_(torch.arange(6))
    inputs = torch.randn(4, 3, 9, generator=generator).to(dtype)
    expected = inputs.double() @ (second.double() @ first.double()).T
    if bias:
        expected = expected + torch.arange(6)
    found = module(inputs)
    assert found.dtype == module.weight.dtype == dtype
    assert found.shape == (4, 3, 6)
    # Two matrix products with sums of at most nine terms.
    size = inputs.double().abs() @ (second.double().abs() @ first.double().abs()).T
    if bias:
        size = size + torch.arange(6)
    assert ((found - expected).abs() <= 24 * torch.finfo(dtype).eps * size).all()


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_is_smaller_compares_parameters(rank, rows, columns):
    first, second = (
        torch.nn.Linear(columns, rank, bias=False),
        torch.nn.Linear(rank, rows, bias=False),
    )
    factors = first.weight.numel() + second.weight.numel()
    assert is_smaller(rank, rows, columns) == (factors < rows * columns)
