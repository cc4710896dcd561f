"""Packed weights against Python integers, and bitmasks against numpy."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from compression_gates.compression.checkpoint.packing import (
    describe_grid,
    from_bitmask,
    grid_of,
    pack,
    packed_shapes,
    to_bitmask,
    unpack,
)
from compression_gates.compression.quantization.grids import (
    Float8,
    LogGrid,
    Quantized,
    Uniform,
    round_to_nearest,
)

GRIDS = [
    *(Uniform(bits, symmetric) for bits in range(2, 9) for symmetric in (True, False)),
    *(LogGrid(bits) for bits in range(2, 9)),
    Float8(),
]


@st.composite
def quantized_weights(draw):
    """Draw random codes of a random grid."""
    grid = draw(st.sampled_from(GRIDS))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    codes = torch.randint(
        grid.lowest, grid.highest + 1, (rows, columns), generator=generator, dtype=torch.int16
    )
    codes[0, 0], codes[-1, -1] = grid.lowest, grid.highest
    if isinstance(grid, Float8):
        codes[(codes == 127) | (codes == -1)] = 0  # NaN
    scales = torch.rand(rows, 1, generator=generator)
    affine = isinstance(grid, Uniform) and not grid.symmetric
    zeros = torch.randint(grid.highest + 1, (rows, 1), generator=generator) if affine else None
    return Quantized(grid, codes, scales, None if zeros is None else zeros.to(torch.uint8))


@given(quantized_weights())
def test_unpack_inverts_pack(quantized):
    again = unpack(pack(quantized), quantized.grid, quantized.codes.shape[1])
    assert torch.equal(again.codes, quantized.codes)
    assert torch.equal(again.scales, quantized.scales)
    assert (again.zeros is None) == (quantized.zeros is None)
    assert again.zeros is None or torch.equal(again.zeros, quantized.zeros)
    assert again.codes.dtype == quantized.codes.dtype
    assert torch.equal(again.dequantized(), quantized.dequantized())


@given(quantized_weights())
def test_packed_rows_are_padded_to_whole_words(quantized):
    rows, columns = quantized.codes.shape
    packed = pack(quantized)["packed"]
    assert packed.numpy().nbytes == rows * -(-columns * quantized.grid.bits // 32) * 4


@given(quantized_weights())
def test_packed_shapes_are_those_of_pack(quantized):
    tensors = pack(quantized)
    shapes = packed_shapes(quantized.grid, *quantized.codes.shape, tuple(quantized.scales.shape))
    assert shapes.keys() == tensors.keys()
    for name, (shape, dtype) in shapes.items():
        assert tuple(tensors[name].shape) == shape
        assert tensors[name].dtype == (dtype or quantized.scales.dtype)


@given(quantized_weights())
def test_codes_are_packed_from_the_lowest_bit(quantized):
    grid = quantized.grid
    affine = isinstance(grid, Uniform) and not grid.symmetric
    for words, codes in zip(
        pack(quantized)["packed"].numpy().view(np.uint32), quantized.codes.tolist(), strict=True
    ):
        row = sum(int(word) << (32 * place) for place, word in enumerate(words))
        found = [(row >> (i * grid.bits)) & (2**grid.bits - 1) for i in range(len(codes))]
        assert found == [code + (0 if affine else 2 ** (grid.bits - 1)) for code in codes]
        assert row >> (len(codes) * grid.bits) == 0


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_description_of_a_grid_round_trips(grid):
    assert grid_of(describe_grid(grid)) == grid


def test_scales_of_groups_round_trip():
    weight = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    quantized = round_to_nearest(weight, Uniform(3, symmetric=False), group=6)
    again = unpack(pack(quantized), quantized.grid, 24)
    assert torch.equal(again.dequantized(), quantized.dequantized())


@given(
    st.integers(1, 5), st.integers(1, 20), st.floats(0, 1), st.integers(0, 9999),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)  # fmt: skip
def test_bitmask_round_trips(rows, columns, sparsity, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    weight[torch.rand(rows, columns, generator=generator) < sparsity] = 0.0
    tensors = to_bitmask(weight)
    flat = weight.flatten().float().numpy()
    assert np.array_equal(tensors["bitmask"].numpy(), np.packbits(flat != 0, bitorder="little"))
    assert np.array_equal(tensors["values"].float().numpy(), flat[flat != 0])
    again = from_bitmask(tensors, (rows, columns))
    assert again.dtype == dtype
    assert torch.equal(again, weight)


def test_bitmask_has_one_bit_per_weight_and_the_nonzero_values():
    weight = torch.eye(10)
    tensors = to_bitmask(weight)
    assert tensors["bitmask"].numel() == 13  # 100 bits
    assert tensors["values"].numel() == 10


def test_negative_zero_is_zero():
    weight = torch.tensor([[-0.0, 1.0, 0.0]])
    tensors = to_bitmask(weight)
    assert tensors["values"].tolist() == [1.0]
    again = from_bitmask(tensors, (1, 3))
    assert again.tolist() == [[0.0, 1.0, 0.0]]
    assert not again.isnan().any()


def test_weight_of_zeros_has_no_values():
    tensors = to_bitmask(torch.zeros(3, 5))
    assert tensors["values"].numel() == 0
    assert torch.equal(from_bitmask(tensors, (3, 5)), torch.zeros(3, 5))
