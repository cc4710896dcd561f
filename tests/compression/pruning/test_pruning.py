"""Magnitude pruning and Wanda against loops in plain Python."""

import pytest
import torch

from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.patterns import NofM, Unstructured, prune_mask
from compression_gates.compression.pruning.wanda import wanda, wanda_scores


def magnitude(weight, pattern):
    """Return ``weight`` with its smallest entries set to zero."""
    return weight.masked_fill(prune_mask(magnitude_scores(weight), pattern, per_row=False), 0.0)


def lowest_positions(scores, groups, counts):
    """Return the pruned positions: the ``count`` lowest scores of each group, earliest first."""
    pruned = set()
    for group, count in zip(groups, counts, strict=True):
        pruned.update(sorted(group, key=lambda at: (scores[at[0]][at[1]], at))[:count])
    return pruned


@pytest.fixture
def weight():
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(50, 16, generator=generator) * torch.linspace(0.1, 3, 16)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_magnitude_prunes_the_smallest_weights_of_the_layer(weight, sparsity):
    result = magnitude(weight, Unstructured(sparsity))
    everywhere = [(i, j) for i in range(6) for j in range(16)]
    pruned = lowest_positions(weight.abs().tolist(), [everywhere], [round(sparsity * 96)])
    for i, j in everywhere:
        assert result[i, j] == (0.0 if (i, j) in pruned else weight[i, j])


def test_wanda_scores_are_weight_times_input_norm(weight, inputs):
    scores = wanda_scores(weight, inputs.norm(dim=0))
    for i in range(6):
        for j in range(16):
            norm = sum(float(x) ** 2 for x in inputs[:, j]) ** 0.5
            assert float(scores[i, j]) == pytest.approx(abs(float(weight[i, j])) * norm, rel=1e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 1.0])
def test_wanda_prunes_the_lowest_scores_of_each_row(weight, inputs, sparsity):
    norm = inputs.norm(dim=0)
    result = wanda(weight, norm, Unstructured(sparsity))
    rows = [[(i, j) for j in range(16)] for i in range(6)]
    pruned = lowest_positions((weight.abs() * norm).tolist(), rows, [round(sparsity * 16)] * 6)
    assert {(i, j) for i in range(6) for j in range(16) if result[i, j] == 0} == pruned
    assert torch.equal(result[result != 0], weight[result != 0])


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
def test_wanda_prunes_the_lowest_scores_of_each_group(weight, inputs, n, m):
    norm = inputs.norm(dim=0)
    result = wanda(weight, norm, NofM(n, m))
    groups = [[(i, j + k) for k in range(m)] for i in range(6) for j in range(0, 16, m)]
    pruned = lowest_positions((weight.abs() * norm).tolist(), groups, [m - n] * len(groups))
    assert {(i, j) for i in range(6) for j in range(16) if result[i, j] == 0} == pruned


def test_wanda_breaks_ties_of_dead_features_by_magnitude(weight):
    norm = torch.ones(16)
    norm[:12] = 0.0
    result = wanda(weight, norm, Unstructured(0.5))
    assert (result[:, 12:] != 0).all()
    for row, pruned in zip(weight[:, :12].abs(), result[:, :12] == 0, strict=True):
        assert row[pruned].max() < row[~pruned].min()


def test_zeros_from_before_pruning_count_towards_the_sparsity():
    weight = torch.tensor([[0.0, 1.0, 0.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    assert int((magnitude(weight, Unstructured(0.5)) == 0).sum()) == 4
    assert int((wanda(weight, torch.ones(8), Unstructured(0.5)) == 0).sum()) == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_keep_their_dtype_and_values(weight, inputs, dtype):
    half = weight.to(dtype)
    result = wanda(half, inputs.norm(dim=0), Unstructured(0.5))
    assert result.dtype == dtype
    assert torch.equal(result[result != 0], half[result != 0])
