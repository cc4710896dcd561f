"""OWL against numpy, its authors' formula, and invariants of the sparsities it gives."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given

from compression_gates.compression.model.layers import backbone_layers
from compression_gates.compression.pruning.owl import outlier_share, owl_sparsities, spread_out

CLOSE = 1e-9
"""Far above the roundings of a few sums in float64, far below one weight of a model."""


@st.composite
def models(draw):
    """Shares of outliers and sizes of up to eight blocks."""
    count = draw(st.integers(1, 8))
    shares = draw(st.lists(st.floats(0, 0.2), min_size=count, max_size=count))
    sizes = draw(st.lists(st.integers(1, 5000), min_size=count, max_size=count))
    return shares, sizes


def mean(values, sizes):
    return float(np.average(values, weights=sizes))


@given(st.integers(0, 999), st.integers(1, 3), st.floats(0.5, 8))
def test_outliers_are_counted_against_the_mean_of_all_layers_together(seed, count, outlier):
    generator = torch.Generator().manual_seed(seed)
    scores = {
        str(number): torch.rand(number + 2, 7, generator=generator).exp2() ** (3 * number + 1)
        for number in range(count)
    }
    everything = np.concatenate([score.double().numpy().ravel() for score in scores.values()])
    limit = outlier * everything.mean()
    # A score that float32 cannot tell from the limit may fall on either side.
    assume(abs(everything - limit).min() > 1e-6 * limit)
    assert outlier_share(scores, outlier) == pytest.approx(
        np.count_nonzero(everything > limit) / len(everything), rel=1e-12
    )


def test_scores_without_outliers_have_a_share_of_zero():
    assert outlier_share({"a": torch.ones(3, 4), "b": torch.ones(2, 2)}, 5.0) == 0.0
    assert outlier_share({"a": torch.zeros(3, 4)}, 5.0) == 0.0


@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_the_mean_over_all_weights_is_kept_and_nothing_leaves_zero_to_one(model, sparsity, spread):
    shares, sizes = model
    found = spread_out(shares, sizes, sparsity, spread)
    assert len(found) == len(shares)
    assert all(0.0 <= value <= 1.0 for value in found)
    assert abs(mean(found, sizes) - sparsity) <= CLOSE


@pytest.mark.parametrize("sparsity", [0.0, 0.02, 0.5, 0.97, 1.0])
def test_near_none_and_all_the_mean_is_kept(sparsity):
    shares, sizes = [0.3, 0.0, 0.1, 0.02], [7, 100, 31, 5]
    found = spread_out(shares, sizes, sparsity, 0.5)
    assert abs(mean(found, sizes) - sparsity) <= CLOSE
    assert all(0.0 <= value <= 1.0 for value in found)


@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_a_block_with_more_outliers_is_never_pruned_more(model, sparsity, spread):
    shares, sizes = model
    found = spread_out(shares, sizes, sparsity, spread)
    order = np.argsort(shares)
    assert (np.diff(np.array(found)[order]) <= CLOSE).all()


@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_sparsities_lie_no_further_apart_than_twice_the_spread(model, sparsity, spread):
    found = spread_out(*model, sparsity, spread)
    assert max(found) - min(found) <= 2 * spread + CLOSE


@given(models(), st.floats(0, 0.2))
def test_sparsities_lie_within_the_spread_of_what_was_asked(model, spread):
    found = spread_out(*model, 0.5, spread)
    assert max(abs(value - 0.5) for value in found) <= spread + CLOSE


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1),
       st.floats(0, 1))  # fmt: skip
def test_blocks_that_are_alike_are_pruned_alike(sizes, share, sparsity, spread):
    assert spread_out([share] * len(sizes), sizes, sparsity, spread) == [sparsity] * len(sizes)


@given(models(), st.floats(0, 1))
def test_without_a_spread_all_are_pruned_alike(model, sparsity):
    assert spread_out(*model, sparsity, 0.0) == pytest.approx([sparsity] * len(model[0]), abs=CLOSE)


@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=4), st.floats(0, 0.2))
def test_blocks_of_one_size_get_what_the_authors_code_gives_them(offsets, spread):
    # Shares on both sides of their middle, where the mean of the paper's range is its middle.
    shares = np.array([0.1 + offset for offset in offsets] + [0.1 - offset for offset in offsets])
    assume(np.ptp(shares) > 1e-6)
    # github.com/luuyin/OWL: all_layer_ratio, then 1 minus it.
    ratio = (shares - shares.min()) * (1 / (shares.max() - shares.min()) * spread * 2)
    ratio = ratio - ratio.mean() + (1 - 0.6)
    found = spread_out(shares.tolist(), [100] * len(shares), 0.6, spread)
    assert found == pytest.approx((1 - ratio).tolist(), abs=CLOSE)


def test_layers_of_a_block_are_alike_and_the_block_with_outliers_is_pruned_less(tiny_llama):
    layers = backbone_layers(tiny_llama)
    weights = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    for name in weights:
        if ".1." in name:
            weights[name][0, 0] = 100.0
    norms = {name: torch.ones(weight.shape[1]) for name, weight in weights.items()}
    found = owl_sparsities(tiny_llama, weights, norms, 0.5, 5.0, 0.1)
    assert found.keys() == layers.keys()
    # Blocks of one size: the whole spread to both sides.
    for name, sparsity in found.items():
        assert sparsity == pytest.approx(0.6 if ".0." in name else 0.4)


def test_strong_inputs_make_outliers_too(tiny_llama):
    weights = {
        name: torch.ones(layer.weight.shape) for name, layer in backbone_layers(tiny_llama).items()
    }
    norms = {name: torch.ones(weight.shape[1]) for name, weight in weights.items()}
    norms["model.layers.0.mlp.down_proj"][3] = 50.0
    found = owl_sparsities(tiny_llama, weights, norms, 0.7, 5.0, 0.08)
    assert found["model.layers.0.self_attn.q_proj"] == pytest.approx(0.62)
    assert found["model.layers.1.self_attn.q_proj"] == pytest.approx(0.78)
