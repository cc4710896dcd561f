"""Rounded inputs against float64 and against compressed-tensors."""

import hypothesis.strategies as st
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from hypothesis import given

from compression_gates.compression.quantization.activations import (
    FLOAT8,
    INT8,
    round_inputs_of,
    rounded_inputs,
)


@st.composite
def tokens(draw):
    """Draw inputs ``(texts, positions, features)``."""
    shape = [draw(st.integers(1, 4)) for _ in range(2)] + [draw(st.integers(1, 12))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    return torch.randn(shape, generator=generator) * 10.0 ** draw(st.integers(0, 3))


def rounded_by_compressed_tensors(inputs, number_format=INT8):
    args = QuantizationArgs(
        num_bits=8,
        type="int" if number_format == INT8 else "float",
        symmetric=True,
        strategy="token",
        dynamic=True,
    )
    scales, zeros = compute_dynamic_scales_and_zp(inputs, args, torch.nn.Identity())
    return fake_quantize(inputs, scales, zeros, args)


@given(tokens())
def test_inputs_are_rounded_to_the_nearest_of_256_values(inputs):
    result = rounded_inputs(inputs).double()
    steps = inputs.double().abs().amax(-1, keepdim=True) / 127.5
    values = torch.arange(-128, 128, dtype=torch.float64) * steps[..., None]
    smallest = (values - inputs.double()[..., None]).abs().amin(-1)
    # The step, the ratio and the product are rounded to float32, each by up to 128 steps * 2^-24.
    assert ((result - inputs.double()).abs() <= smallest + steps * 128 * 3 * 2.0**-23).all()


@given(tokens(), st.sampled_from([INT8, FLOAT8]))
def test_result_agrees_with_compressed_tensors(inputs, number_format):
    assert torch.equal(
        rounded_inputs(inputs, number_format), rounded_by_compressed_tensors(inputs, number_format)
    )


@pytest.mark.parametrize("size", [1e-5, 1e-8])
def test_small_inputs_agree_with_compressed_tensors(size):
    inputs = torch.tensor([[[1.0, -0.4, 0.3, 0.0]]]) * size
    assert torch.equal(rounded_inputs(inputs), rounded_by_compressed_tensors(inputs))


@given(tokens(), st.integers(0, 99))
def test_tokens_are_rounded_independently(inputs, seed):
    flat = inputs.flatten(0, 1)
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))
    together = rounded_inputs(inputs).flatten(0, 1)
    assert torch.equal(rounded_inputs(flat[order]), together[order])
    assert torch.equal(rounded_inputs(flat[:1]), together[:1])


@given(tokens(), st.sampled_from([INT8, FLOAT8]))
def test_zeros_remain_zero(inputs, number_format):
    inputs[..., ::2] = 0.0
    assert not rounded_inputs(inputs, number_format)[..., ::2].any()
    assert not rounded_inputs(torch.zeros_like(inputs), number_format).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-2, 1.0, 1e4])
@pytest.mark.parametrize("number_format", [INT8, FLOAT8])
def test_half_precision_agrees_with_compressed_tensors(dtype, size, number_format):
    inputs = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).mul(size).to(dtype)
    result = rounded_inputs(inputs, number_format)
    assert result.dtype == dtype
    assert torch.equal(result, rounded_by_compressed_tensors(inputs, number_format))
    assert result.isfinite().all()


@pytest.mark.parametrize("number_format", [INT8, FLOAT8])
def test_hook_rounds_the_inputs_of_a_layer(number_format):
    torch.manual_seed(0)
    layer, inputs = torch.nn.Linear(6, 3), torch.randn(4, 6)
    plain = layer(inputs)
    round_inputs_of(layer, number_format)
    assert torch.equal(layer(inputs), torch.nn.functional.linear(
        rounded_inputs(inputs, number_format), layer.weight, layer.bias
    ))  # fmt: skip
    assert not torch.equal(layer(inputs), plain)
