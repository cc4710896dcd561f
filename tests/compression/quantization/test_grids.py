"""Grids against brute force over all codes in float64, and against PyTorch's fake quantization.

Tolerances count float32 roundings. ``w / s`` is accurate to half an ulp, which is at most
``256 * 2^-24`` steps for ratios up to 255. Near a midpoint the other neighbour may be chosen, whose
error is larger by at most twice that.
"""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from compression_gates.compression.errors import RecipeError
from compression_gates.compression.quantization.grids import (
    Float8,
    LogGrid,
    Uniform,
    round_to_nearest,
)

RATIO = 256 * 2.0**-23
HALF = [torch.float16, torch.bfloat16]
UNIFORM = [Uniform(bits, symmetric) for bits in range(2, 9) for symmetric in (True, False)]
GRIDS = [*UNIFORM, *(LogGrid(bits) for bits in range(2, 9)), Float8()]


@st.composite
def weights(draw):
    """Draw a weight, a group size or None, and whether the whole matrix shares a scale."""
    rows, groups, width = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    weight = torch.randn(rows, groups * width, generator=generator)
    weight += draw(st.sampled_from([0.0, 0.0, 0.7, -3.0]))
    weight *= 10.0 ** draw(st.integers(-3, 3))
    kept = torch.rand(weight.shape, generator=generator) >= draw(st.sampled_from([0.0, 0.5]))
    return weight * kept, draw(st.sampled_from([None, width])), draw(st.booleans())


def rounded(case, grid):
    weight, group, per_tensor = case
    return round_to_nearest(weight, grid, group, per_tensor and group is None)


def expanded(quantized, values):
    """Return scales or zero points ``(rows or 1, groups)`` expanded to every weight, in float64."""
    shape = quantized.codes.shape
    return values.double().repeat_interleave(shape[1] // values.shape[1], dim=1).expand(shape)


def levels(quantized):
    """Return all values ``(codes, rows, columns)`` that each weight could have, in float64."""
    grid = quantized.grid
    codes = torch.arange(grid.lowest, grid.highest + 1, dtype=torch.float64)[:, None, None]
    scales = expanded(quantized, quantized.scales)
    if isinstance(grid, LogGrid):
        return codes.sign() * torch.where(codes == 0, 0.0, 2 ** (1 - codes.abs())) * scales
    if isinstance(grid, Float8):
        return (
            torch.tensor([e4m3(int(c) % 256) for c in codes], dtype=torch.float64)[:, None, None]
            * scales
        )
    zeros = 0.0 if quantized.zeros is None else expanded(quantized, quantized.zeros)
    return (codes - zeros) * scales


def e4m3(byte):
    """Return the value of a byte (Micikevicius et al. 2022, table 1)."""
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    size = mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if sign else size


def exact(quantized):
    """Return the values that the codes represent, in float64."""
    at = quantized.codes.long() - quantized.grid.lowest
    return levels(quantized).gather(0, at[None])[0]


@given(weights(), st.sampled_from(UNIFORM))
def test_uniform_codes_are_the_nearest(case, grid):
    quantized = rounded(case, grid)
    assert int(quantized.codes.min()) >= grid.lowest
    assert int(quantized.codes.max()) <= grid.highest
    smallest = (levels(quantized) - case[0].double()).abs().amin(0)
    errors = (exact(quantized) - case[0].double()).abs()
    assert (errors <= smallest + RATIO * expanded(quantized, quantized.scales)).all()
    # One product is rounded to float32.
    assert torch.equal(quantized.dequantized(), exact(quantized).float())


@given(weights(), st.sampled_from(UNIFORM))
def test_rounding_error_is_at_most_half_a_step(case, grid):
    quantized = rounded(case, grid)
    steps = expanded(quantized, quantized.scales)
    assert ((exact(quantized) - case[0].double()).abs() <= steps * (0.5 + RATIO)).all()


@given(weights(), st.sampled_from(UNIFORM))
def test_scale_is_the_range_divided_by_the_number_of_steps(case, grid):
    weight, group, per_tensor = case
    quantized = rounded(case, grid)
    shape = (len(weight), -1, group or weight.shape[1])
    if per_tensor and group is None:
        shape = (1, 1, -1)
    for parts, scales in zip(weight.double().view(shape), quantized.scales, strict=True):
        for part, scale in zip(parts.tolist(), scales.tolist(), strict=True):
            if grid.symmetric:
                width = max(map(abs, part)) / (2 ** (grid.bits - 1) - 1)
            else:
                width = (max(*part, 0.0) - min(*part, 0.0)) / (2**grid.bits - 1)
            # Two float32 operations.
            assert scale == pytest.approx(width or 1.0, rel=2.0**-22)


@given(weights(), st.sampled_from(GRIDS))
def test_zeros_remain_zero(case, grid):
    assert (rounded(case, grid).dequantized()[case[0] == 0] == 0).all()


@given(weights(), st.sampled_from(GRIDS))
def test_values_of_the_grid_are_encoded_exactly(case, grid):
    quantized = rounded(case, grid)
    group = quantized.codes.shape[1] // quantized.scales.shape[1]
    parts = quantized.dequantized().unflatten(1, (-1, group))
    zeros = None if quantized.zeros is None else quantized.zeros[..., None]
    again = grid.encode(parts, quantized.scales[..., None], zeros).flatten(1)
    if isinstance(grid, Uniform):
        assert torch.equal(again, quantized.codes)
    assert torch.equal(
        grid.decode(again.unflatten(1, (-1, group)), quantized.scales[..., None], zeros), parts
    )


@given(weights(), st.sampled_from([grid for grid in GRIDS if grid not in UNIFORM[1::2]]))
def test_rounding_is_idempotent(case, grid):
    quantized = rounded(case, grid)
    again = rounded((quantized.dequantized(), *case[1:]), grid)
    if isinstance(grid, Uniform):
        assert torch.equal(again.codes, quantized.codes)
    # The scale is unchanged if the largest weight was rounded down to a power of two.
    assert torch.allclose(again.dequantized(), quantized.dequantized(), rtol=2.0**-22, atol=0.0)


@given(weights(), st.sampled_from(GRIDS), st.integers(0, 99))
def test_rows_are_rounded_independently(case, grid, seed):
    weight, group, _ = case
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
    quantized = round_to_nearest(weight, grid, group)
    permuted = round_to_nearest(weight[order], grid, group)
    assert torch.equal(permuted.codes, quantized.codes[order])
    assert torch.equal(permuted.dequantized(), quantized.dequantized()[order])


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("grid", GRIDS)
def test_row_of_zeros(grid, dtype):
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.5, -2.0, 1.0]], dtype=dtype)
    quantized = round_to_nearest(weight, grid)
    assert torch.equal(quantized.dequantized()[0], weight[0])
    assert torch.equal(
        quantized.dequantized()[1:], round_to_nearest(weight[1:], grid).dequantized()
    )
    assert not round_to_nearest(torch.zeros_like(weight), grid, per_tensor=True).dequantized().any()


@pytest.mark.parametrize("value", [0.3, -0.3, 7e4, -1e-6])
@pytest.mark.parametrize("grid", UNIFORM)
def test_constant_row_is_reproduced(grid, value):
    weight = torch.full((1, 5), value)
    # A division and a product, each rounded by half an ulp.
    assert torch.allclose(
        round_to_nearest(weight, grid).dequantized(), weight, rtol=2.0**-23, atol=0.0
    )


@pytest.mark.parametrize("grid", UNIFORM)
@pytest.mark.parametrize("group", [None, 8])
def test_uniform_grid_agrees_with_pytorch_fake_quantization(grid, group):
    weight = torch.randn(6, 24, generator=torch.Generator().manual_seed(grid.bits)) + 0.2
    quantized = round_to_nearest(weight, grid, group)
    scales = quantized.scales.flatten()
    zeros = torch.zeros_like(scales) if quantized.zeros is None else quantized.zeros.flatten()
    expected = torch.fake_quantize_per_channel_affine(
        weight.view(len(scales), -1), scales, zeros.to(torch.int32), 0, grid.lowest, grid.highest
    )
    assert torch.equal(quantized.dequantized(), expected.view_as(weight))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("grid", UNIFORM)
def test_half_precision_codes_are_the_nearest_for_the_stored_scales(grid, dtype):
    weight = (torch.randn(8, 32, generator=torch.Generator().manual_seed(1)) + 0.3).to(dtype)
    quantized = round_to_nearest(weight, grid, group=16)
    assert quantized.scales.dtype == quantized.dequantized().dtype == dtype
    smallest = (levels(quantized) - weight.double()).abs().amin(0)
    errors = (exact(quantized) - weight.double()).abs()
    assert (errors <= smallest + RATIO * expanded(quantized, quantized.scales)).all()
    # One product is rounded by half an ulp of its dtype.
    gap = (quantized.dequantized().double() - exact(quantized)).abs()
    assert (gap <= exact(quantized).abs() * torch.finfo(dtype).eps / 2).all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", [1e-5, 1.0, 1e4])
@pytest.mark.parametrize("grid", GRIDS)
def test_half_precision_is_finite(grid, size, dtype):
    weight = (torch.randn(8, 32, generator=torch.Generator().manual_seed(1)) * size).to(dtype)
    assert round_to_nearest(weight, grid).dequantized().isfinite().all()


@given(weights(), st.integers(2, 7), st.integers(0, 12))
def test_log_codes_are_the_nearest(case, bits, depth):
    # Weights of very different magnitudes, so that small powers occur.
    weight = case[0] * 2.0 ** -(torch.arange(case[0].shape[1]) % (depth + 1)).float()
    quantized = rounded((weight, *case[1:]), LogGrid(bits))
    smallest = (levels(quantized) - weight.double()).abs().amin(0)
    errors = (exact(quantized) - weight.double()).abs()
    # log2 of a ratio down to 2^-64 is accurate to half an ulp of 64, which is 2^-19. Near a
    # midpoint the errors of both neighbours differ by at most that fraction of the weight.
    assert (errors <= smallest + 2.0**-18 * weight.double().abs()).all()
    assert torch.equal(quantized.dequantized(), exact(quantized).float())


def test_log_grid_of_8_bits_has_small_powers():
    weight = torch.tensor([[1.0, 2.0**-90, 2.0**-110, -(2.0**-116), 1e-35]])
    quantized = round_to_nearest(weight, LogGrid(8))
    smallest = (levels(quantized) - weight.double()).abs().amin(0)
    errors = (exact(quantized) - weight.double()).abs()
    # As above, for ratios down to 2^-128.
    assert (errors <= smallest + 2.0**-17 * weight.double().abs()).all()


@given(weights(), st.integers(2, 8))
def test_log_scales_are_powers_of_two(case, bits):
    weight, group, per_tensor = case
    quantized = rounded(case, LogGrid(bits))
    shape = (len(weight), -1, group or weight.shape[1])
    if per_tensor and group is None:
        shape = (1, 1, -1)
    largest = weight.view(shape).abs().amax(-1)
    for scale, value in zip(quantized.scales.flatten(), largest.flatten().tolist(), strict=True):
        mantissa, exponent = math.frexp(scale)
        assert mantissa == 0.5
        if value:
            # s = 2^round(log2 max), with the precision of a float32 logarithm.
            assert abs(exponent - 1 - math.log2(value)) <= 0.5 + 2.0**-20


@given(weights(), st.integers(2, 8))
def test_log_grid_is_symmetric(case, bits):
    weight, *rest = case
    quantized, mirrored = rounded(case, LogGrid(bits)), rounded((-weight, *rest), LogGrid(bits))
    assert torch.equal(mirrored.codes, -quantized.codes)
    assert torch.equal(mirrored.dequantized(), -quantized.dequantized())


def test_group_that_does_not_divide_the_width_raises():
    with pytest.raises(RecipeError, match="group = 4 does not divide an input width of 6"):
        round_to_nearest(torch.ones(2, 6), Uniform(4), group=4)


@pytest.mark.parametrize("grid", [Uniform(8), Uniform(4, False), LogGrid(4), Float8()], ids=str)
def test_largest_float16_weight_is_finite(grid):
    largest = torch.finfo(torch.float16).max
    weight = torch.tensor([[largest, -largest / 3, 1.0, 0.0]], dtype=torch.float16)
    assert round_to_nearest(weight, grid).dequantized().isfinite().all()


@given(weights())
def test_float8_codes_are_the_nearest(case):
    quantized = rounded(case, Float8())
    weight = case[0].double()
    smallest = (levels(quantized) - weight).abs().nan_to_num(nan=math.inf).amin(0)
    errors = (exact(quantized) - weight).abs()
    # The ratio is rounded to float32; near a midpoint the other neighbour may be chosen.
    assert (errors <= smallest + 2.0**-22 * weight.abs()).all()
    assert torch.equal(quantized.dequantized(), exact(quantized).float())


@given(weights())
def test_largest_weight_has_the_largest_float8_value(case):
    quantized = rounded(case, Float8())
    ratio = (case[0] / expanded(quantized, quantized.scales)).abs().flatten(1).amax()
    assert ratio == 0 or ratio == pytest.approx(448, rel=2.0**-20)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("high", [1.0, 0.5])
@pytest.mark.parametrize("grid", UNIFORM)
def test_full_range_of_a_dtype_is_finite(grid, high, dtype):
    largest = torch.finfo(dtype).max
    weight = torch.tensor([[largest * high, -largest, 1.0]], dtype=torch.float64).to(dtype)
    assert round_to_nearest(weight, grid).dequantized().isfinite().all()
    assert round_to_nearest(-weight, grid).dequantized().isfinite().all()
