"""Pruning scopes against sorting with numpy, and the checks before a pruned weight is written."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn
from transformers.pytorch_utils import Conv1D

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.pruning.magnitude import magnitude_scores
from compression_gates.compression.pruning.masks import masks_by_score, write_pruned
from compression_gates.compression.pruning.patterns import NofM, Unstructured, prune_mask


def layer_of(name, weight):
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    with torch.no_grad():
        module.weight.copy_(weight)
    return Layer(name, module)


def masks_of(scores, layers, patterns, scope):
    """Return masks by layer name; ties are broken by magnitude."""
    ties = {name: magnitude_scores(layer.weight.detach()) for name, layer in layers.items()}
    return dict(masks_by_score(lambda name: (scores[name], ties[name]), layers, patterns, scope))


@st.composite
def models(draw):
    """Draw layers of different shapes and magnitudes, some with integer weights that often tie."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    coarse = draw(st.booleans())
    layers = {}
    for number in range(draw(st.integers(1, 3))):
        rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 9))
        weight = torch.randn(rows, columns, generator=generator) * 3.0**number
        layers[f"layer{number}"] = layer_of(f"layer{number}", weight.round() if coarse else weight)
    return layers


def scores_of(layers, seed=None):
    """Return magnitudes, or random scores of three values if a seed is given."""
    if seed is None:
        return {name: layer.weight.detach().abs() for name, layer in layers.items()}
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(3, layer.weight.shape, generator=generator).float()
        for name, layer in layers.items()
    }


def lowest_by_lexsort(scores, magnitudes, count):
    """Return the mask of the ``count`` lowest by score, then magnitude, then position."""
    order = np.lexsort((np.arange(len(scores)), magnitudes, scores))
    mask = np.zeros(len(scores), dtype=bool)
    mask[order[:count]] = True
    return mask


def expected_masks(scores, layers, sparsity, scope):
    flat = {name: score.flatten().numpy() for name, score in scores.items()}
    sizes = {name: layer.weight.detach().abs().flatten().numpy() for name, layer in layers.items()}
    if scope == "global":
        everything, ties = np.concatenate([*flat.values()]), np.concatenate([*sizes.values()])
        mask = lowest_by_lexsort(everything, ties, round(sparsity * len(everything)))
        ends = np.cumsum([len(values) for values in flat.values()])[:-1]
        parts = dict(zip(flat, np.split(mask, ends), strict=True))
    elif scope == "layer":
        parts = {
            name: lowest_by_lexsort(flat[name], sizes[name], round(sparsity * len(flat[name])))
            for name in flat
        }
    else:
        parts = {}
        for name, score in scores.items():
            columns = score.shape[1]
            rows = zip(
                flat[name].reshape(-1, columns), sizes[name].reshape(-1, columns), strict=True
            )
            parts[name] = np.concatenate(
                [lowest_by_lexsort(row, ties, round(sparsity * columns)) for row, ties in rows]
            )
    return {name: parts[name].reshape(tuple(scores[name].shape)) for name in scores}


@given(
    models(), st.floats(0, 1), st.sampled_from(["layer", "row", "global"]),
    st.none() | st.integers(0, 99),
)  # fmt: skip
def test_masks_select_the_lowest_scores_of_each_scope(layers, sparsity, scope, seed):
    scores = scores_of(layers, seed)
    masks = masks_of(scores, layers, dict.fromkeys(layers, Unstructured(sparsity)), scope)
    expected = expected_masks(scores, layers, sparsity, scope)
    for name, mask in masks.items():
        assert np.array_equal(mask.numpy(), expected[name])
    if scope == "global":
        size = sum(mask.numel() for mask in masks.values())
        assert sum(int(mask.sum()) for mask in masks.values()) == round(sparsity * size)


def test_global_scope_prunes_the_layer_with_smaller_weights():
    layers = {"small": layer_of("small", torch.full((2, 4), 0.1)),
              "large": layer_of("large", torch.full((2, 4), 1.0))}  # fmt: skip
    masks = masks_of(scores_of(layers), layers, dict.fromkeys(layers, Unstructured(0.5)), "global")
    assert masks["small"].all()
    assert not masks["large"].any()


@pytest.mark.parametrize("scope", ["layer", "row", "global"])
def test_n_of_m_pattern_compares_within_groups_in_every_scope(scope):
    generator = torch.Generator().manual_seed(0)
    layers = {
        name: layer_of(name, torch.randn(3, 8, generator=generator) * size)
        for name, size in (("first", 1.0), ("second", 100.0))
    }
    masks = masks_of(scores_of(layers), layers, dict.fromkeys(layers, NofM(2, 4)), scope)
    for name, mask in masks.items():
        groups = layers[name].weight.detach().abs().reshape(-1, 4).numpy()
        expected = groups.argsort(axis=1).argsort(axis=1) < 2
        assert np.array_equal(mask.reshape(-1, 4).numpy(), expected)


@pytest.mark.parametrize("scope", ["layer", "row"])
def test_each_layer_can_have_its_own_sparsity(scope):
    generator = torch.Generator().manual_seed(0)
    layers = {name: layer_of(name, torch.randn(4, 10, generator=generator)) for name in "ab"}
    masks = masks_of(
        scores_of(layers), layers, {"a": Unstructured(0.2), "b": Unstructured(0.7)}, scope
    )
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"a": 8, "b": 28}


def test_transposed_layer_is_pruned_by_output_rows():
    module = Conv1D(3, 6)
    nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
    layers = {"conv": Layer("conv", module, transposed=True)}
    masks = masks_of(scores_of(layers), layers, {"conv": Unstructured(0.5)}, "row")
    expected = module.weight.detach().abs().T.argsort(dim=1).argsort(dim=1) < 3
    assert torch.equal(masks["conv"], expected)


@given(models(), st.floats(0, 1))
def test_layer_scope_equals_prune_mask(layers, sparsity):
    pattern = Unstructured(sparsity)
    masks = masks_of(scores_of(layers), layers, dict.fromkeys(layers, pattern), "layer")
    for name, layer in layers.items():
        weight = layer.weight.detach()
        assert torch.equal(
            masks[name], prune_mask(magnitude_scores(weight), pattern, per_row=False)
        )


WEIGHT = torch.arange(1.0, 17.0).view(2, 8)


OPTIONS = {"wanda": {"per_row": True}, "sparsegpt": {"per_row": False, "corrected": True}}
"""Arguments of write_pruned for each calibrated method."""


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_weight_with_the_requested_zeros_is_written(method):
    layer = layer_of("a", WEIGHT)
    after = WEIGHT * torch.tensor([1.0, 0.0]).repeat(4)
    write_pruned("a", layer, after, Unstructured(0.5), **OPTIONS[method])
    assert torch.equal(layer.weight, after)


def test_zeros_from_before_pruning_do_not_count_as_too_many():
    before = WEIGHT.clone()
    before[:, 4] = 0.0
    after = before * torch.tensor([1.0, 0.0]).repeat(4)
    layer = layer_of("a", before)
    write_pruned("a", layer, after, Unstructured(0.5), **OPTIONS["wanda"])
    assert torch.equal(layer.weight, after)


@pytest.mark.parametrize("kept", [0, 3, 5, 8])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_too_many_or_too_few_zeros_raise(method, kept):
    layer = layer_of("a", WEIGHT)
    after = WEIGHT * (torch.arange(8) < kept)
    with pytest.raises(CompressionError, match=rf"a: pruning left {2 * (8 - kept)} zeros, but 8"):
        write_pruned("a", layer, after, Unstructured(0.5), **OPTIONS[method])
    assert torch.equal(layer.weight, WEIGHT)


def test_corrected_half_precision_weights_may_underflow_to_zero():
    layer = layer_of("a", WEIGHT.half())
    after = WEIGHT.half() * torch.tensor([1, 0, 0, 0, 1, 0, 1, 0]).half()
    write_pruned("a", layer, after, Unstructured(0.5), **OPTIONS["sparsegpt"])
    assert torch.equal(layer.weight, after)
    with pytest.raises(CompressionError, match="left 10 zeros, but 8"):
        write_pruned(
            "a", layer_of("a", WEIGHT.half()), after, Unstructured(0.5), **OPTIONS["wanda"]
        )


def test_group_that_keeps_too_many_weights_raises():
    layer = layer_of("a", WEIGHT)
    after = WEIGHT * torch.tensor([1, 1, 1, 0, 1, 0, 0, 0])
    with pytest.raises(CompressionError, match="keeps more weights than 2:4"):
        write_pruned("a", layer, after, NofM(2, 4), **OPTIONS["wanda"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_raises(value):
    layer = layer_of("a", WEIGHT)
    after = WEIGHT * torch.tensor([1.0, 0.0]).repeat(4)
    after[0, 0] = value
    with pytest.raises(CompressionError, match="not finite"):
        write_pruned("a", layer, after, Unstructured(0.5), **OPTIONS["wanda"])
