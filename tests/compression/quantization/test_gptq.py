"""GPTQ against optimal brain surgery by least squares, in float64.

The reference uses no inverse Hessian, Cholesky factor or blocks. After each column it solves
``min ||(W' - W) X||^2`` for the remaining columns, with the rounded columns fixed. Damping
adds rows ``sqrt(d) I`` to ``X``.
"""

import pytest
import torch

from compression_gates.compression.calibration.hessian import DAMPING
from compression_gates.compression.quantization.gptq import gptq
from compression_gates.compression.quantization.grids import (
    Float8,
    LogGrid,
    Uniform,
    round_to_nearest,
)

ROWS, COLUMNS, TOKENS = 6, 12, 80


def layer(seed, columns=COLUMNS, rows=ROWS):
    """Return a weight, correlated inputs ``(tokens, columns)`` and their Hessian."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(TOKENS, columns, generator=generator) @ mix
    weight = torch.randn(rows, columns, generator=generator)
    return weight, inputs, 2 * inputs.T @ inputs / TOKENS


def fitted(values, bits, symmetric):
    """Return the scale and zero point ``(rows, 1)`` of a group, in float32 as they are stored."""
    values = values.float()
    if symmetric:
        return values.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1), None
    low = values.amin(1, keepdim=True).clamp(max=0)
    scale = (values.amax(1, keepdim=True).clamp(min=0) - low) / (2**bits - 1)
    return scale, (-low / scale).round()


def quantized_column(values, scale, zero, bits):
    """Return values ``(rows, 1)`` rounded to the grid, in float64."""
    codes = (values / scale.double()).round()
    if zero is None:
        largest = 2 ** (bits - 1) - 1
        return codes.clamp(-largest, largest) * scale.double()
    return ((codes + zero.double()).clamp(0, 2**bits - 1) - zero.double()) * scale.double()


def brain_surgery(weight, inputs, bits, symmetric=True, group=None, pruned=None):
    """Return the quantized weight, in float64."""
    rows, columns = weight.shape
    inputs = inputs.double() * (2 / len(inputs)) ** 0.5
    strength = DAMPING * inputs.square().sum(0).mean()
    system = torch.cat([inputs, strength.sqrt() * torch.eye(columns, dtype=torch.float64)])
    outputs = system @ weight.double().T
    result = torch.zeros(rows, columns, dtype=torch.float64)
    for j in range(columns):
        target = outputs - system[:, :j] @ result[:, :j].T
        free = torch.linalg.lstsq(system[:, j:], target).solution.T
        if j == 0 and group is None:
            scale, zero = fitted(weight, bits, symmetric)
        elif group is not None and j % group == 0:
            part = free[:, :group]
            if pruned is not None:
                # Pruned weights do not widen the range.
                part = part.masked_fill(pruned[:, j : j + group], 0.0)
            scale, zero = fitted(part, bits, symmetric)
        result[:, j, None] = quantized_column(free[:, :1], scale, zero, bits)
        if pruned is not None:
            result[pruned[:, j], j] = 0.0
    return result


def loss(weight, result, hessian):
    gap = weight.double() - result.double()
    return float(((gap @ hessian.double()) * gap).sum())


def close(result, expected):
    """Return whether all codes agree; the tolerance is far below a quantization step."""
    return torch.allclose(result.double(), expected, rtol=1e-4, atol=1e-6)


def column_by_column(weight, hessian, grid, group=None, act_order=False, pruned=None):
    """Return the codes of algorithm 1 without blocks: each error is spread at once, in float64."""
    rows, columns = weight.shape
    order = hessian.diagonal().argsort(descending=True, stable=True).tolist()
    order = order if act_order else list(range(columns))
    damped = hessian.double()[order][:, order]
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    updated = weight.double()[:, order]
    codes = torch.empty(rows, columns, dtype=torch.int16)
    width = group or columns
    for j, column in enumerate(order):
        if act_order or group is None:
            first = column // width * width
            part = weight[:, first : first + width]
        elif j % width == 0:
            part = updated[:, j : j + width].float()
            if pruned is not None:
                part = part.masked_fill(pruned[:, j : j + width], 0.0)
        scales, zeros = grid.fit(part)
        values = updated[:, j, None].float()
        if pruned is not None:
            values = values.masked_fill(pruned[:, column, None], 0.0)
        code = grid.encode(values, scales, zeros)
        error = (updated[:, j, None] - grid.decode(code, scales, zeros).double()) / upper[j, j]
        updated[:, j:] -= error * upper[j, j:]
        codes[:, column] = code[:, 0]
    return codes


@pytest.mark.parametrize("keep_zeros", [False, True])
@pytest.mark.parametrize(
    ("group", "act_order"), [(None, False), (None, True), (30, False), (30, True), (150, False)]
)
@pytest.mark.parametrize("grid", [Uniform(4), Uniform(3, False), LogGrid(4), Float8()], ids=str)
def test_codes_of_several_blocks_equal_the_float64_reference(grid, group, act_order, keep_zeros):
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(900, 300, generator=generator)
    inputs += inputs @ torch.randn(300, 300, generator=generator) / 300**0.5
    weight, hessian = torch.randn(8, 300, generator=generator), 2 * inputs.T @ inputs / 900
    pruned = None
    if keep_zeros:
        pruned = torch.rand(weight.shape, generator=generator) < 0.5
        weight = weight.masked_fill(pruned, 0.0)
    expected = column_by_column(weight, hessian, grid, group, act_order, pruned)
    result = gptq(weight, hessian, grid, group, act_order, keep_zeros)
    assert torch.equal(result.codes, expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_result_agrees_with_least_squares(bits, symmetric, seed):
    weight, inputs, hessian = layer(seed)
    result = gptq(weight, hessian, Uniform(bits, symmetric))
    assert close(result.dequantized(), brain_surgery(weight, inputs, bits, symmetric))


@pytest.mark.parametrize("block", [1, 3, 5, 128])
@pytest.mark.parametrize("group", [2, 4, 6])
@pytest.mark.parametrize("symmetric", [True, False])
def test_group_scales_are_fitted_to_updated_weights(group, block, symmetric):
    weight, inputs, hessian = layer(3)
    result = gptq(weight, hessian, Uniform(4, symmetric), group, block=block)
    assert result.scales.shape == (ROWS, COLUMNS // group)
    assert close(result.dequantized(), brain_surgery(weight, inputs, 4, symmetric, group))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_keep_zeros_keeps_zeros_and_compensates_their_updates(symmetric, group, seed):
    weight, inputs, hessian = layer(seed)
    pruned = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    weight = weight.masked_fill(pruned, 0.0)
    result = gptq(weight, hessian, Uniform(4, symmetric), group, keep_zeros=True).dequantized()
    assert not result[pruned].any()
    assert close(result, brain_surgery(weight, inputs, 4, symmetric, group, pruned))


def test_zeros_are_updated_without_keep_zeros():
    weight, inputs, hessian = layer(0)
    weight[:, ::2] = 0.0
    result = gptq(weight, hessian, Uniform(4)).dequantized()
    assert result[:, ::2].any()
    assert close(result, brain_surgery(weight, inputs, 4))


@pytest.mark.parametrize(
    "grid", [Uniform(2), Uniform(3), Uniform(4, False), Uniform(8), LogGrid(4)]
)
def test_output_error_is_lower_than_rounding_to_nearest(grid):
    total, rounded = 0.0, 0.0
    for seed in range(12):
        weight, _, hessian = layer(seed)
        total += loss(weight, gptq(weight, hessian, grid).dequantized(), hessian)
        rounded += loss(weight, round_to_nearest(weight, grid).dequantized(), hessian)
    assert total < rounded


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_act_order_equals_permuting_the_columns(symmetric, seed):
    weight, _, hessian = layer(seed)
    order = hessian.diagonal().argsort(descending=True)
    grid = Uniform(4, symmetric)
    result = gptq(weight, hessian, grid, act_order=True)
    permuted = gptq(weight[:, order], hessian[order][:, order], grid)
    assert torch.equal(result.codes[:, order], permuted.codes)
    assert torch.equal(result.scales, permuted.scales)
    assert not torch.equal(result.codes, gptq(weight, hessian, grid).codes)


def test_act_order_fits_group_scales_to_the_original_weights():
    weight, _, hessian = layer(0)
    result = gptq(weight, hessian, Uniform(4), group=4, act_order=True)
    assert torch.equal(result.scales, round_to_nearest(weight, Uniform(4), group=4).scales)
    assert loss(weight, result.dequantized(), hessian) < loss(
        weight, round_to_nearest(weight, Uniform(4), group=4).dequantized(), hessian
    )


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("grid", [Uniform(2), Uniform(4), Uniform(8, False), LogGrid(4)], ids=str)
def test_independent_inputs_give_rounding_to_nearest(grid, group, act_order):
    weight, _, _ = layer(4)
    hessian = torch.diag(torch.linspace(0.5, 3.0, COLUMNS))
    for other in (hessian, torch.eye(COLUMNS)):
        result = gptq(weight, other, grid, group, act_order, block=5)
        expected = round_to_nearest(weight, grid, group)
        assert torch.equal(result.codes, expected.codes)
        assert torch.equal(result.dequantized(), expected.dequantized())


@pytest.mark.parametrize("grid", [Uniform(4), Uniform(3, False), LogGrid(4)], ids=str)
@pytest.mark.parametrize("group", [None, 2, 6])
def test_result_does_not_depend_on_the_block_size(grid, group):
    weight, _, hessian = layer(5)
    first, *others = (gptq(weight, hessian, grid, group, block=block) for block in (1, 3, 128))
    for other in others:
        assert torch.equal(other.codes, first.codes)
        # The weights are updated in another order of float32 sums.
        assert torch.allclose(other.scales, first.scales, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("grid", [Uniform(4), Uniform(8, False), LogGrid(4)], ids=str)
@pytest.mark.parametrize("group", [None, 4])
def test_half_precision_is_finite_and_preserves_the_dtype(grid, dtype, group):
    weight, _, hessian = layer(6)
    result = gptq(weight.to(dtype), hessian, grid, group)
    assert result.scales.dtype == result.dequantized().dtype == dtype
    assert result.dequantized().isfinite().all()
    assert int(result.codes.min()) >= grid.lowest
    assert int(result.codes.max()) <= grid.highest
    rounded = round_to_nearest(weight.to(dtype), grid, group).dequantized()
    assert loss(weight, result.dequantized(), hessian) < loss(weight, rounded, hessian)


def test_weights_of_a_dead_feature_are_rounded_independently():
    weight, inputs, _ = layer(7)
    dead = 5
    inputs[:, dead] = 0.0
    hessian = 2 * inputs.T @ inputs / TOKENS
    weight[:, dead] = 0.1
    before = gptq(weight, hessian, Uniform(4))
    assert torch.equal(before.codes[:, dead], round_to_nearest(weight, Uniform(4)).codes[:, dead])
    weight[:, dead] = -0.4
    after = gptq(weight, hessian, Uniform(4))
    assert not torch.equal(after.codes[:, dead], before.codes[:, dead])
    after.codes[:, dead] = before.codes[:, dead]
    assert torch.equal(after.codes, before.codes)


def test_singular_hessian_agrees_with_least_squares():
    weight, inputs, _ = layer(8)
    inputs[:, 3] = inputs[:, 2]
    inputs = inputs[:4]  # fewer tokens than features, and two equal features
    hessian = 2 * inputs.T @ inputs / len(inputs)
    result = gptq(weight, hessian, Uniform(4)).dequantized()
    assert close(result, brain_surgery(weight, inputs, 4))


def test_arguments_are_not_modified():
    weight, _, hessian = layer(9)
    copies = weight.clone(), hessian.clone()
    gptq(weight, hessian, Uniform(4), group=4, keep_zeros=True)
    assert torch.equal(weight, copies[0])
    assert torch.equal(hessian, copies[1])
