"""OWL against numpy and the authors' formula, and invariants of its sparsities."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given

from compression_gates.compression.model.layers import backbone_layers
from compression_gates.compression.pruning.owl import (
    block_sparsities,
    outlier_ratio,
    owl_sparsities,
)

CLOSE = 1e-9
"""Larger than the rounding of a few float64 sums, smaller than one weight of a model."""


@st.composite
def models(draw):
    """Draw the outlier ratios and sizes of up to eight blocks."""
    count = draw(st.integers(1, 8))
    ratios = draw(st.lists(st.floats(0, 0.2), min_size=count, max_size=count))
    sizes = draw(st.lists(st.integers(1, 5000), min_size=count, max_size=count))
    return ratios, sizes


def mean(values, sizes):
    return float(np.average(values, weights=sizes))


@given(st.integers(0, 999), st.integers(1, 3), st.floats(0.5, 8))
def test_outlier_ratio_uses_the_mean_over_all_layers(seed, count, outlier):
    generator = torch.Generator().manual_seed(seed)
    scores = {
        str(number): torch.rand(number + 2, 7, generator=generator).exp2() ** (3 * number + 1)
        for number in range(count)
    }
    everything = np.concatenate([score.double().numpy().ravel() for score in scores.values()])
    limit = outlier * everything.mean()
    # Within float32 rounding of the limit, a score may be counted either way.
    assume(abs(everything - limit).min() > 1e-6 * limit)
    assert outlier_ratio(scores, outlier) == pytest.approx(
        np.count_nonzero(everything > limit) / len(everything), rel=1e-12
    )


def test_outlier_ratio_without_outliers_is_zero():
    assert outlier_ratio({"a": torch.ones(3, 4), "b": torch.ones(2, 2)}, 5.0) == 0.0
    assert outlier_ratio({"a": torch.zeros(3, 4)}, 5.0) == 0.0


@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_mean_sparsity_is_as_requested_and_each_is_a_fraction(model, sparsity, spread):
    ratios, sizes = model
    sparsities = block_sparsities(ratios, sizes, sparsity, spread)
    assert len(sparsities) == len(ratios)
    assert all(0.0 <= value <= 1.0 for value in sparsities)
    assert abs(mean(sparsities, sizes) - sparsity) <= CLOSE


@pytest.mark.parametrize("sparsity", [0.0, 0.02, 0.5, 0.97, 1.0])
def test_mean_sparsity_is_as_requested_when_sparsities_are_clipped(sparsity):
    ratios, sizes = [0.3, 0.0, 0.1, 0.02], [7, 100, 31, 5]
    sparsities = block_sparsities(ratios, sizes, sparsity, 0.5)
    assert abs(mean(sparsities, sizes) - sparsity) <= CLOSE
    assert all(0.0 <= value <= 1.0 for value in sparsities)


@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_sparsity_does_not_rise_with_the_outlier_ratio(model, sparsity, spread):
    ratios, sizes = model
    sparsities = block_sparsities(ratios, sizes, sparsity, spread)
    order = np.argsort(ratios)
    assert (np.diff(np.array(sparsities)[order]) <= CLOSE).all()


@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_sparsities_differ_by_at_most_twice_the_spread(model, sparsity, spread):
    sparsities = block_sparsities(*model, sparsity, spread)
    assert max(sparsities) - min(sparsities) <= 2 * spread + CLOSE


@given(models(), st.floats(0, 0.2))
def test_sparsities_are_within_the_spread_of_the_requested_one(model, spread):
    sparsities = block_sparsities(*model, 0.5, spread)
    assert max(abs(value - 0.5) for value in sparsities) <= spread + CLOSE


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1),
       st.floats(0, 1))  # fmt: skip
def test_equal_outlier_ratios_give_equal_sparsities(sizes, ratio, sparsity, spread):
    expected = [sparsity] * len(sizes)
    assert block_sparsities([ratio] * len(sizes), sizes, sparsity, spread) == expected


@given(models(), st.floats(0, 1))
def test_zero_spread_gives_equal_sparsities(model, sparsity):
    expected = [sparsity] * len(model[0])
    assert block_sparsities(*model, sparsity, 0.0) == pytest.approx(expected, abs=CLOSE)


@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=4), st.floats(0, 0.2))
def test_blocks_of_equal_size_agree_with_the_authors_code(offsets, spread):
    # Symmetric ratios: the mean is the middle of the range.
    ratios = np.array([0.1 + offset for offset in offsets] + [0.1 - offset for offset in offsets])
    assume(np.ptp(ratios) > 1e-6)
    # github.com/luuyin/OWL: all_layer_ratio, then 1 minus it.
    expected = (ratios - ratios.min()) * (1 / (ratios.max() - ratios.min()) * spread * 2)
    expected = expected - expected.mean() + (1 - 0.6)
    sparsities = block_sparsities(ratios.tolist(), [100] * len(ratios), 0.6, spread)
    assert sparsities == pytest.approx((1 - expected).tolist(), abs=CLOSE)


def test_block_with_outlier_weights_is_pruned_less(tiny_llama):
    layers = backbone_layers(tiny_llama)
    weights = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    for name in weights:
        if ".1." in name:
            weights[name][0, 0] = 100.0
    norms = {name: torch.ones(weight.shape[1]) for name, weight in weights.items()}
    found = owl_sparsities(tiny_llama, weights, norms, 0.5, 5.0, 0.1)
    assert found.keys() == layers.keys()
    for name, sparsity in found.items():
        assert sparsity == pytest.approx(0.6 if ".0." in name else 0.4)


def test_block_with_outlier_inputs_is_pruned_less(tiny_llama):
    weights = {
        name: torch.ones(layer.weight.shape) for name, layer in backbone_layers(tiny_llama).items()
    }
    norms = {name: torch.ones(weight.shape[1]) for name, weight in weights.items()}
    norms["model.layers.0.mlp.down_proj"][3] = 50.0
    found = owl_sparsities(tiny_llama, weights, norms, 0.7, 5.0, 0.08)
    assert found["model.layers.0.self_attn.q_proj"] == pytest.approx(0.62)
    assert found["model.layers.1.self_attn.q_proj"] == pytest.approx(0.78)
