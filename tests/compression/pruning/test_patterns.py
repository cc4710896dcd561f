"""Sparsity patterns: exact counts, ties and refused values."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from compression_gates.compression.errors import RecipeError
from compression_gates.compression.pruning.patterns import (
    NofM,
    Unstructured,
    lowest_mask,
    prune_mask,
)


@given(
    st.integers(1, 6), st.integers(1, 40), st.floats(0, 1), st.integers(1, 4), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_number_of_pruned_weights_is_exact(rows, columns, sparsity, levels, per_row, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, columns), generator=generator).float()
    mask = prune_mask(scores, Unstructured(sparsity), per_row=per_row)
    if per_row:
        assert mask.sum(1).tolist() == [round(sparsity * columns)] * rows
    else:
        assert int(mask.sum()) == round(sparsity * rows * columns)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 8), st.data())
def test_n_of_m_pattern_keeps_the_n_largest_of_each_group(rows, groups, m, data):
    n = data.draw(st.integers(1, m - 1))
    scores = torch.rand(rows, groups * m)
    mask = NofM(n, m).mask(scores)
    kept = (~mask).view(rows, groups, m)
    assert (kept.sum(-1) == n).all()
    lowest_kept = scores.view_as(kept).masked_fill(~kept, 2.0).amin(-1)
    highest_pruned = scores.view_as(kept).masked_fill(kept, -1.0).amax(-1)
    assert (highest_pruned <= lowest_kept).all()


def test_mask_is_exact_where_a_threshold_prunes_too_many():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    grid = (weight / weight.abs().max() * 7).round()
    scores = grid.abs()
    threshold = scores.flatten().sort().values[scores.numel() // 2]
    assert (scores <= threshold).float().mean() > 0.53
    assert int(prune_mask(scores, Unstructured(0.5), per_row=False).sum()) == 64 * 64 // 2


def test_ties_are_broken_by_the_second_score_and_then_by_position():
    scores = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert lowest_mask(scores, 2).tolist() == [True, False, False, True]
    assert lowest_mask(scores, 2, torch.tensor([3.0, 1.0, 2.0, 9.0])).tolist() == [
        False, True, False, True,
    ]  # fmt: skip


@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 40), st.booleans(), st.integers(0, 99),
    st.data(),
)  # fmt: skip
def test_mask_equals_sorting_by_score_second_score_and_position(
    rows, columns, levels, with_ties, seed, data
):
    count = data.draw(st.integers(0, columns))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels, (rows, columns), generator=generator).float()
    ties = torch.randint(-2, 2, (rows, columns), generator=generator).float() if with_ties else None
    mask = lowest_mask(scores, count, ties)
    for row in range(rows):
        second = [0.0] * columns if ties is None else ties[row].tolist()
        keys = list(zip(scores[row].tolist(), second, range(columns), strict=True))
        assert mask[row].nonzero().flatten().tolist() == sorted(
            position for *_, position in sorted(keys)[:count]
        )


def test_width_that_the_pattern_does_not_divide_raises():
    with pytest.raises(RecipeError, match="width of 6 is not a multiple of 4"):
        prune_mask(torch.rand(2, 6), NofM(2, 4), per_row=True)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_sparsity_outside_zero_to_one_raises(sparsity):
    with pytest.raises(RecipeError, match="must be between 0 and 1"):
        Unstructured(sparsity)
