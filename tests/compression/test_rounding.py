import hypothesis.strategies as st
import torch
from hypothesis import given

from compression.rounding import round_to_nearest


@given(st.integers(1, 8), st.integers(1, 20), st.sampled_from([2, 4, 8]), st.integers(0, 99))
def test_error_is_within_half_a_step_and_rounding_twice_changes_nothing(rows, columns, bits, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    rounded = round_to_nearest(weight, bits)
    error = (rounded.dequantized() - weight).abs()
    assert (error <= rounded.scales / 2 * (1 + 1e-5)).all()
    assert int(rounded.integers.abs().max()) <= 2 ** (bits - 1) - 1
    again = round_to_nearest(rounded.dequantized(), bits)
    assert torch.equal(again.integers, rounded.integers)


def test_agrees_with_a_loop_in_double_precision():
    weight = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    rounded = round_to_nearest(weight, 8)
    for row, integers, scale in zip(
        weight.tolist(), rounded.integers.tolist(), rounded.scales[:, 0].tolist(), strict=True
    ):
        step = max(map(abs, row)) / 127
        assert abs(scale - step) < 1e-6 * step
        assert integers == [round(value / step) for value in row]


def test_zeros_stay_zero_and_a_row_of_zeros_is_fine():
    weight = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    assert torch.equal(round_to_nearest(weight).dequantized(), weight)


def test_half_precision_scales_are_what_is_stored():
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).half()
    rounded = round_to_nearest(weight)
    assert rounded.scales.dtype == torch.float16
    assert rounded.dequantized().dtype == torch.float16
