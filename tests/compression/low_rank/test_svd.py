"""Truncated and whitened SVD against numpy's singular values, in float64."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from compression_gates.compression.low_rank.factors import LowRank
from compression_gates.compression.low_rank.svd import DAMPING, factorise, is_smaller, rank_of

HALF = [torch.float16, torch.bfloat16]


@st.composite
def layers(draw):
    """A weight, and inputs ``(tokens, columns)`` that are correlated; in float64."""
    rows, columns = draw(st.integers(1, 10)), draw(st.integers(1, 10))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(3 * columns + 5, columns, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return weight, inputs


def singular_values(matrix):
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


def discarded(values, rank):
    """The squares of all singular values but the first ``rank``, summed."""
    return float((values[rank:] ** 2).sum())


def damped(products):
    """Products as they are whitened by: no feature is quite without inputs."""
    return products + DAMPING * products.diagonal().mean() * torch.eye(len(products)).double()


def loss(gap, products):
    return float(((gap @ products) * gap).sum())


@given(layers(), st.floats(0.01, 1))
def test_what_is_lost_are_the_discarded_singular_values(layer, ratio):
    weight, _ = layer
    first, second = factorise(weight, ratio=ratio)
    values = singular_values(weight)
    lost = float((weight - second @ first).square().sum())
    # Singular values of float64 are good to a share of the largest.
    assert lost == pytest.approx(discarded(values, len(first)), abs=1e-12 * values[0] ** 2)


@given(layers(), st.floats(0.01, 1))
def test_factors_have_the_shapes_and_the_singular_values_of_the_weight(layer, ratio):
    weight, _ = layer
    first, second = factorise(weight, ratio=ratio)
    rank = len(first)
    assert first.shape == (rank, weight.shape[1])
    assert second.shape == (weight.shape[0], rank)
    values = singular_values(weight)
    found = singular_values(second @ first)[:rank]
    assert np.allclose(found, values[:rank], rtol=0, atol=1e-12 * values[0])
    # Shared out evenly: either factor has the roots.
    for factor in (first, second):
        assert np.allclose(
            singular_values(factor) ** 2, values[:rank], rtol=0, atol=1e-12 * values[0]
        )


@given(layers(), st.floats(0.01, 1))
def test_energy_keeps_the_fewest_values_that_reach_it(layer, energy):
    weight, _ = layer
    rank = len(factorise(weight, energy=energy)[0])
    squares = singular_values(weight) ** 2
    total = squares.sum()
    # An energy within roundings of one of the sums may be taken as reached.
    assert squares[:rank].sum() >= energy * total * (1 - 1e-11)
    assert rank == 1 or squares[: rank - 1].sum() < energy * total * (1 + 1e-11)


def test_energy_counts_squares_exactly():
    values = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64)  # squares 9 4 1 1 1
    ranks = [
        rank_of(values, 5, 5, None, energy) for energy in (0.1, 9 / 16, 0.57, 13 / 16, 0.9, 1.0)
    ]
    assert ranks == [1, 1, 2, 2, 4, 5]
    assert rank_of(torch.tensor([2.0, 1.0, 0.0, 0.0]), 4, 4, None, 1.0) == 2


@pytest.mark.parametrize(("rows", "columns"), [(100, 100), (96, 32), (7, 300), (1, 1), (64, 192)])
def test_ratio_is_the_share_of_parameters_that_the_factors_may_have(rows, columns):
    values = torch.ones(min(rows, columns))
    for percent in range(1, 101):
        exact = Fraction(percent, 100) * rows * columns / (rows + columns)
        rank = rank_of(values, rows, columns, percent / 100, None)
        assert rank == max(exact.numerator // exact.denominator, 1), percent


@given(layers(), st.sampled_from([{"ratio": 1e-6}, {"energy": 1e-6}]))
def test_rank_is_at_least_one(layer, amount):
    assert len(factorise(layer[0], **amount)[0]) == 1


@pytest.mark.parametrize("products", [None, torch.eye(4)])
def test_a_weight_of_zeros_has_factors_of_rank_one(products):
    first, second = factorise(torch.zeros(3, 4), energy=0.9, products=products)
    assert len(first) == 1
    assert not (second @ first).any()


@given(layers(), st.floats(0.01, 1), st.booleans())
def test_whitened_the_discarded_singular_values_are_what_outputs_lose(layer, amount, by_energy):
    weight, inputs = layer
    products = inputs.T @ inputs
    kind = {"energy": amount} if by_energy else {"ratio": amount}
    first, second = factorise(weight, **kind, products=products)
    # Those of the outputs themselves, W X, without any Cholesky factor; damping is some more
    # inputs, one for each feature.
    strength = (DAMPING * float(products.diagonal().mean())) ** 0.5
    everything = torch.cat([inputs, strength * torch.eye(weight.shape[1]).double()])
    values = singular_values(weight @ everything.T)
    lost = float(((weight - second @ first) @ everything.T).square().sum())
    # The condition of L, at most 1e3 times the root of the width, comes on top of float64's 1e-16.
    assert lost == pytest.approx(discarded(values, len(first)), abs=1e-9 * values[0] ** 2)
    if by_energy:
        squares = values**2
        assert squares[: len(first)].sum() >= amount * squares.sum() * (1 - 1e-9)


def test_whitened_the_loss_of_outputs_is_the_discarded_values_up_to_the_damping():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    inputs = torch.randn(200, 12, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(9, 12, generator=generator, dtype=torch.float64)
    products = inputs.T @ inputs
    first, second = factorise(weight, ratio=0.6, products=products)
    values = singular_values(weight @ inputs.T)
    lost = float(((weight - second @ first) @ inputs.T).square().sum())
    # Damping adds to no eigenvalue of X X^T more than this share of it.
    share = DAMPING * float(products.diagonal().mean() / torch.linalg.eigvalsh(products)[0])
    assert lost == pytest.approx(discarded(values, len(first)), rel=share)


@given(layers(), st.floats(0.01, 1))
def test_whitened_never_loses_more_of_the_outputs_than_plain(layer, ratio):
    weight, inputs = layer
    products = damped(inputs.T @ inputs)
    first, second = factorise(weight, ratio=ratio, products=inputs.T @ inputs)
    plain_first, plain_second = factorise(weight, ratio=ratio)
    assert len(first) == len(plain_first)
    whitened = loss(weight - second @ first, products)
    plain = loss(weight - plain_second @ plain_first, products)
    assert whitened <= plain + 1e-9 * loss(weight, products)
    # And plain never more of the weight.
    assert (weight - plain_second @ plain_first).norm() <= (
        weight - second @ first
    ).norm() + 1e-9 * weight.norm()


def test_whitened_loses_much_less_where_inputs_are_correlated():
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(3, 24, generator=generator)
    inputs = torch.randn(300, 3, generator=generator) @ few
    inputs += 0.01 * torch.randn(300, 24, generator=generator)
    weight = torch.randn(16, 24, generator=generator)
    products = inputs.T @ inputs
    lost = []
    for given_products in (products, None):
        first, second = factorise(weight, ratio=0.4, products=given_products)
        lost.append(loss((weight - second @ first).double(), products.double()))
    # All that matters fits into three directions; the rest are inputs of a hundredth.
    assert lost[0] < 1e-2 * lost[1]


@given(layers(), st.floats(0.05, 0.95), st.floats(0.001, 1000))
def test_the_size_of_the_products_does_not_matter(layer, ratio, size):
    weight, inputs = layer
    products = inputs.T @ inputs
    first, second = factorise(weight, ratio=ratio, products=products)
    other_first, other_second = factorise(weight, ratio=ratio, products=products * size)
    gap = second @ first - other_second @ other_first
    lost = loss(gap, damped(products))
    assert lost <= 1e-12 * loss(weight, damped(products))


def test_independent_inputs_of_one_strength_make_it_plain():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = factorise(weight, ratio=0.8)
    whitened = factorise(weight, ratio=0.8, products=3 * torch.eye(7).double())
    assert torch.allclose(plain[1] @ plain[0], whitened[1] @ whitened[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_dead_features_stay_finite(dtype):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(50, 8, generator=generator)
    inputs[:, [1, 5]] = 0.0
    weight = torch.randn(6, 8, generator=generator).to(dtype)
    first, second = factorise(weight, ratio=0.9, products=inputs.T @ inputs)
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert first.dtype == second.dtype == dtype


def test_without_any_input_it_is_plain():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    plain = factorise(weight, energy=0.8)
    whitened = factorise(weight, energy=0.8, products=torch.zeros(7, 7))
    assert torch.equal(plain[0], whitened[0])
    assert torch.equal(plain[1], whitened[1])


def test_inputs_that_depend_on_each_other_stay_finite():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(3, 8, generator=generator)
    inputs[:, 7] = inputs[:, 6]
    weight = torch.randn(6, 8, generator=generator)
    first, second = factorise(weight, energy=0.99, products=inputs.T @ inputs)
    assert (second @ first).isfinite().all()
    # Three tokens are three directions: outputs are kept almost whole by as many values.
    assert len(first) <= 3


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("whitened", [True, False])
def test_half_precision_is_off_by_its_own_rounding_only(dtype, size, whitened):
    generator = torch.Generator().manual_seed(4)
    weight = (torch.randn(12, 16, generator=generator) * size).to(dtype)
    inputs = torch.randn(80, 16, generator=generator)
    products = inputs.T @ inputs if whitened else None
    first, second = factorise(weight, ratio=0.9, products=products)
    exact = factorise(weight.double(), ratio=0.9, products=products)
    assert first.dtype == second.dtype == dtype
    assert torch.equal(first, exact[0].to(dtype))
    assert torch.equal(second, exact[1].to(dtype))
    gap = (second.double() @ first.double() - exact[1] @ exact[0]).abs()
    # Each entry of both factors is off by half an ulp of its own.
    bound = exact[1].abs() @ exact[0].abs() * 1.01 * torch.finfo(dtype).eps
    assert (gap <= bound).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_module_computes_with_the_product(bias, dtype):
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 9, generator=generator).to(dtype)
    first, second = factorise(weight, ratio=0.9)
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
    # Two products with sums of at most nine terms, each term and sum rounded.
    size = inputs.double().abs() @ (second.double().abs() @ first.double().abs()).T
    if bias:
        size = size + torch.arange(6)
    assert ((found - expected).abs() <= 24 * torch.finfo(dtype).eps * size).all()


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_smaller_is_fewer_parameters(rank, rows, columns):
    first, second = (
        torch.nn.Linear(columns, rank, bias=False),
        torch.nn.Linear(rank, rows, bias=False),
    )
    factors = first.weight.numel() + second.weight.numel()
    assert is_smaller(rank, rows, columns) == (factors < rows * columns)
