"""Kernels for quantized layers against products in float64 that numpy computes."""

import numpy as np
import pytest
import torch

from compression_gates.evals.models.kernel_layers import (
    FEW_TOKENS,
    Float8Inputs,
    Int4WeightsCpu,
    Int4WeightsCuda,
    Int8InputsCpu,
    Int8InputsCuda,
    Int8Weights,
    Int8WeightsHalfCpu,
    kernel_for,
)
from compression_gates.evals.models.quantized import CHANGED, QuantizedWeight, recovered

CPU = torch.device("cpu")
ROWS, COLUMNS = 48, 192


def grid(bits: int, groups: int, zeros: bool = False, seed: int = 0):
    """Random codes, scales and zero points as numpy arrays."""
    rng = np.random.default_rng(seed)
    low = -(2 ** (bits - 1))
    codes = rng.integers(low + 1, -low, (ROWS, COLUMNS))
    scales = rng.uniform(0.5, 2.0, (ROWS, groups)) / 2**bits
    # Exactly representable in bfloat16, so that no scale is rounded.
    scales = torch.tensor(scales).bfloat16().double().numpy()
    return codes, scales, rng.integers(low, -low, (ROWS, groups)) if zeros else None


def weight_of(codes, scales, zeros, bits: int, levels: float = 0.0) -> QuantizedWeight:
    return QuantizedWeight(
        torch.tensor(codes, dtype=torch.int8),
        torch.tensor(scales, dtype=torch.float32),
        None if zeros is None else torch.tensor(zeros, dtype=torch.int16),
        bits,
        levels,
    )


def product(inputs: torch.Tensor, codes, scales, zeros, levels: float, bias) -> np.ndarray:
    """The product in float64 of what the form rounds the inputs and the weight to."""
    inputs = inputs.float().numpy()
    if levels:  # in float32, since the largest input is a tie between two codes
        largest = np.abs(inputs).max(axis=1, keepdims=True)
        scale = np.where(largest > 0, largest / np.float32(levels), np.float32(1))
        inputs = np.clip(np.round(inputs / scale), -128, 127) * scale
    size = COLUMNS // scales.shape[1]
    shifted = codes - (0 if zeros is None else np.repeat(zeros, size, axis=1))
    weight = shifted * np.repeat(scales, size, axis=1)
    return inputs.astype(np.float64) @ weight.T + bias.double().numpy()


def check(kernel, dtype, tokens, bits, groups, zeros=False, levels=0.0, tolerance=1e-5):
    parts = grid(bits, groups, zeros)
    weight = weight_of(*parts, bits, levels)
    assert kernel_for(weight, CPU, dtype) is kernel
    torch.manual_seed(tokens)
    bias, inputs = torch.randn(ROWS).to(dtype), torch.randn(1, tokens, COLUMNS).to(dtype)
    inputs[0, 0] = 0
    expected = product(inputs[0], *parts, levels, bias)
    with torch.inference_mode():
        output = kernel(weight, bias, dtype)(inputs)
        plain = kernel(weight, None, dtype)(inputs)
    assert (output.shape, output.dtype) == ((1, tokens, ROWS), dtype)
    error = np.linalg.norm(output[0].double().numpy() - expected) / np.linalg.norm(expected)
    assert error < tolerance
    shifted = plain + bias
    assert torch.allclose(shifted, output, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-1)


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("levels", [127.0, 127.5])
def test_int8_inputs(tokens, levels):
    check(Int8InputsCpu, torch.float32, tokens, 8, 1, levels=levels)


@pytest.mark.parametrize("tokens", [2, 40])
def test_int8_inputs_in_bfloat16(tokens):
    check(Int8InputsCpu, torch.bfloat16, tokens, 8, 1, levels=127.5, tolerance=3e-3)


@pytest.mark.parametrize("tokens", [1, 40])
def test_int8_weights_do_not_round_the_inputs(tokens):
    check(Int8Weights, torch.float32, tokens, 8, 1, tolerance=1e-6)


@pytest.mark.parametrize("tokens", [1, FEW_TOKENS, FEW_TOKENS + 1])
def test_int8_weights_in_bfloat16(tokens):
    check(Int8WeightsHalfCpu, torch.bfloat16, tokens, 8, 1, tolerance=5e-3)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("zeros", [False, True])
def test_int4_weights(groups, zeros):
    check(Int4WeightsCpu, torch.bfloat16, 5, 4, groups, zeros, tolerance=1e-2)


@pytest.mark.parametrize(
    ("bits", "groups", "zeros", "dtype"),
    [
        (4, 6, False, torch.float32), (4, 12, False, torch.bfloat16), (8, 2, False, torch.float32),
        (8, 1, True, torch.float32), (3, 1, False, torch.bfloat16),
    ],
)  # fmt: skip
def test_forms_without_a_kernel(bits, groups, zeros, dtype):
    assert kernel_for(weight_of(*grid(bits, groups, zeros), bits), CPU, dtype) is None


def test_kernels_of_gpus_are_not_used_on_a_cpu():
    for kernel in (Int8InputsCuda, Int4WeightsCuda, Float8Inputs):
        for levels in (0.0, 127.5):
            weight = weight_of(*grid(8, 1), 8, levels)
            assert not kernel.supports(weight, CPU, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bits", "groups"), [(8, 1), (4, 6)])
def test_codes_are_recovered_from_an_unpacked_weight(dtype, bits, groups):
    codes, scales, _ = grid(bits, groups)
    stored = weight_of(codes, scales, None, bits)
    unpacked = stored.dequantized(dtype)
    found = recovered(unpacked, stored.scales.to(dtype), None, bits, "int", 0.0)
    assert torch.equal(found.codes, stored.codes)
    changed = unpacked.clone()
    changed[1, 1] += float(scales[1, 0]) / 2
    assert recovered(changed, stored.scales.to(dtype), None, bits, "int", 0.0) == CHANGED


def test_float8_codes_are_recovered():
    codes = torch.randn(8, 16).to(torch.float8_e4m3fn)
    scales = torch.rand(8, 1) + 0.5
    unpacked = codes.float() * scales
    found = recovered(unpacked, scales, None, 8, "float", 0.0)
    assert torch.equal(found.codes.float(), codes.float())
    assert found.form == "float8 weights"


def test_inputs_that_are_not_a_number_remain_so():
    layer = Int8InputsCpu(weight_of(*grid(8, 1), 8, 127.5), None, torch.float32)
    inputs = torch.ones(2, COLUMNS)
    inputs[1, 3] = torch.nan
    with torch.inference_mode():
        outputs = layer(inputs)
    assert outputs[0].isfinite().all()
    assert outputs[1].isnan().all()
