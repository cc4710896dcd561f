"""Statistics of inputs, and the factor of the inverse Hessian, against float64."""

import pytest
import torch

from compression_gates.compression.calibration import statistics
from compression_gates.compression.calibration.hessian import (
    error_difference,
    inverse_factor,
    inverse_of_lower,
    output_error,
)
from compression_gates.compression.calibration.statistics import InputStatistics

FEATURES = 300
"""More than two stripes of products, and more than one half of a triangular matrix."""
CPU = torch.device("cpu")


def batches(dtype: torch.dtype) -> list[torch.Tensor]:
    """Return batches of inputs with a few large features, an offset, and correlations."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(FEATURES, FEATURES, generator=generator) / FEATURES**0.5
    inputs = torch.randn(4000, FEATURES, generator=generator) @ mixing + 3.0
    inputs[:, ::50] *= 100
    return [part.to(dtype) for part in inputs.split([1, 2500, 1499])]


def accumulated(dtype: torch.dtype, **kwargs: bool) -> tuple[InputStatistics, torch.Tensor]:
    moments = InputStatistics(FEATURES, CPU, **kwargs)
    for batch in batches(dtype):
        moments.add(batch)
    return moments, torch.cat(batches(dtype)).double()


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def dtype(request):
    return request.param


@pytest.mark.parametrize("chunk", [2**19, 7 * FEATURES])
def test_squares_and_magnitudes(dtype, chunk, monkeypatch):
    monkeypatch.setitem(statistics.CHUNK, "cpu", chunk)
    moments, inputs = accumulated(dtype, with_products=False, with_magnitudes=True)
    assert moments.tokens == 4000
    torch.testing.assert_close(moments.squares, inputs.square().sum(0), rtol=3e-7, atol=0)
    torch.testing.assert_close(moments.absolutes, inputs.abs().sum(0), rtol=3e-7, atol=0)
    assert torch.equal(moments.largest, inputs.abs().amax(0).float())


def test_products_are_symmetric_and_accurate(dtype):
    moments, inputs = accumulated(dtype, with_products=True)
    expected = inputs.T @ inputs
    scale = expected.diagonal().sqrt()
    error = (moments.products.double() - expected).abs() / (scale * scale[:, None])
    assert error.max() < 2e-6
    assert torch.equal(moments.products, moments.products.T)
    torch.testing.assert_close(moments.squares, expected.diagonal(), rtol=2e-6, atol=0)


def test_inputs_can_be_added_after_products_were_read():
    moments, inputs = accumulated(torch.float32, with_products=True)
    before = moments.products.clone()
    moments.add(inputs.float())
    torch.testing.assert_close(moments.products, 2 * before, rtol=1e-5, atol=1.0)
    assert torch.equal(moments.products, moments.products.T)


def test_inverse_factor_is_accurate():
    moments, _ = accumulated(torch.float32, with_products=True)
    upper = inverse_factor(moments.hessian, damping=0.01)
    damped = moments.hessian.double()
    damped.diagonal().add_(0.01 * damped.diagonal().mean())
    expected = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    assert (upper - expected).norm() <= 1e-5 * expected.norm()
    assert torch.equal(upper, upper.triu())
    assert upper.is_contiguous()


@pytest.mark.parametrize("size", [1, 128, 129, 300])
def test_inverse_of_lower(size):
    generator = torch.Generator().manual_seed(0)
    lower = torch.randn(size, size, generator=generator, dtype=torch.float64).tril()
    lower.diagonal().abs_().add_(size**0.5)
    inverse = inverse_of_lower(lower)
    assert torch.equal(inverse, inverse.tril())
    identity = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(inverse @ lower, identity, rtol=0, atol=1e-12)


def test_layers_with_the_same_inputs_share_the_factor(monkeypatch):
    moments, _ = accumulated(torch.float32, with_products=True)
    calls = []
    monkeypatch.setattr(
        statistics, "inverse_factor", lambda *args: calls.append(args) or inverse_factor(*args)
    )
    first, second = (moments.inverse_factor(0.01) for _ in range(2))
    assert first is second
    assert len(calls) == 1
    order = moments.hessian.diagonal().argsort(descending=True, stable=True)
    permuted = moments.inverse_factor(0.01, by_diagonal=True)
    assert torch.equal(permuted, inverse_factor(moments.hessian[order][:, order], 0.01))


def test_error_difference():
    moments, _ = accumulated(torch.float32, with_products=True)
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 9, FEATURES, generator=generator)
    hessian = moments.hessian
    errors = [output_error(gap, hessian.double()).sum().double() for gap in (first, second)]
    difference = error_difference(first, second, hessian).double()
    torch.testing.assert_close(difference, errors[0] - errors[1], rtol=1e-4, atol=0)
    assert error_difference(first, first, hessian) == 0
