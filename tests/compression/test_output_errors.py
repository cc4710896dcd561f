"""Methods with calibration data have no larger output error per layer than those without."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.pruning.patterns import Unstructured
from compression_gates.compression.pruning.sparsegpt import _least_error
from compression_gates.compression.quantization.gptq import quantize
from compression_gates.compression.quantization.lsq import quantize as learn
from compression_gates.compression.recipe import Recipe


def problem(seed, rows, columns, tokens):
    """A weight, its inputs with a few strong and correlated features, and their statistics."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(tokens, columns, generator=generator)
    inputs = inputs @ torch.randn(columns, columns, generator=generator)
    inputs[:, : columns // 4] *= 30
    seen = InputStatistics(columns, torch.device("cpu"), with_products=True)
    seen.add(inputs)
    return weight, inputs, seen


def error(weight, after, inputs):
    return float(((after - weight).double() @ inputs.double().T).square().sum())


SIZES = dict(
    seed=st.integers(0, 10**6), rows=st.integers(1, 12), columns=st.sampled_from([8, 16, 24]),
    tokens=st.integers(1, 40),
)  # fmt: skip


@given(**SIZES, sparsity=st.sampled_from([0.1, 0.5, 0.9]))
def test_sparsegpt_error_is_at_most_that_of_magnitude(seed, rows, columns, tokens, sparsity):
    weight, inputs, seen = problem(seed, rows, columns, tokens)
    after = _least_error(weight, seen, Unstructured(sparsity), 0.01)
    order = weight.abs().flatten().argsort()[: round(sparsity * weight.numel())]
    smallest = weight.flatten().index_fill(0, order, 0.0).view_as(weight)
    assert error(weight, after, inputs) <= error(weight, smallest, inputs) * 1.001 + 1e-6


@pytest.mark.parametrize("method", [quantize, learn])
@given(**SIZES, bits=st.sampled_from([2, 4, 8]))
def test_gptq_and_lsq_error_is_at_most_that_of_rounding(method, seed, rows, columns, tokens, bits):
    weight, inputs, seen = problem(seed, rows, columns, tokens)
    name = "gptq" if method is quantize else "lsq"
    rest = "" if method is quantize else ",iterations=3"
    step = Recipe.parse(f"{name}-int{bits}{rest}").steps[0]
    scales = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    after = method(weight, step, seen, False).dequantized()
    nearest = (weight / scales).round() * scales
    assert error(weight, after, inputs) <= error(weight, nearest, inputs) * 1.001 + 1e-6
