"""Where weights compete, and what is written back, against sorting by numpy."""

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
from compression_gates.compression.pruning.masks import masks_of as step_masks
from compression_gates.compression.pruning.masks import put
from compression_gates.compression.pruning.patterns import NofM, Unstructured, prune_mask


def layer_of(name, weight):
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    with torch.no_grad():
        module.weight.copy_(weight)
    return Layer(name, module)


def masks_of(scores, layers, patterns, scope):
    """Masks by name; equal scores go by magnitude."""
    ties = {name: magnitude_scores(layer.weight.detach()) for name, layer in layers.items()}
    return dict(step_masks(lambda name: (scores[name], ties[name]), layers, patterns, scope))


@st.composite
def models(draw):
    """Layers of different widths and sizes of weights; on a coarse grid, so that many tie."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    coarse = draw(st.booleans())
    layers = {}
    for number in range(draw(st.integers(1, 3))):
        rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 9))
        weight = torch.randn(rows, columns, generator=generator) * 3.0**number
        layers[f"layer{number}"] = layer_of(f"layer{number}", weight.round() if coarse else weight)
    return layers


def scores_of(layers, seed=None):
    """Magnitudes, or scores with ties that magnitudes break."""
    if seed is None:
        return {name: layer.weight.detach().abs() for name, layer in layers.items()}
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(3, layer.weight.shape, generator=generator).float()
        for name, layer in layers.items()
    }


def sorted_out(scores, magnitudes, count):
    """Mask of the ``count`` lowest scores, then magnitudes, then positions."""
    order = np.lexsort((np.arange(len(scores)), magnitudes, scores))
    mask = np.zeros(len(scores), dtype=bool)
    mask[order[:count]] = True
    return mask


def expected_masks(scores, layers, sparsity, scope):
    flat = {name: score.flatten().numpy() for name, score in scores.items()}
    sizes = {name: layer.weight.detach().abs().flatten().numpy() for name, layer in layers.items()}
    if scope == "global":
        everything, ties = np.concatenate([*flat.values()]), np.concatenate([*sizes.values()])
        mask = sorted_out(everything, ties, round(sparsity * len(everything)))
        ends = np.cumsum([len(values) for values in flat.values()])[:-1]
        parts = dict(zip(flat, np.split(mask, ends), strict=True))
    elif scope == "layer":
        parts = {
            name: sorted_out(flat[name], sizes[name], round(sparsity * len(flat[name])))
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
                [sorted_out(row, ties, round(sparsity * columns)) for row, ties in rows]
            )
    return {name: parts[name].reshape(tuple(scores[name].shape)) for name in scores}


@given(
    models(), st.floats(0, 1), st.sampled_from(["layer", "row", "global"]),
    st.none() | st.integers(0, 99),
)  # fmt: skip
def test_the_lowest_of_each_scope_go_exactly_as_many_as_asked(layers, sparsity, scope, seed):
    scores = scores_of(layers, seed)
    masks = masks_of(scores, layers, dict.fromkeys(layers, Unstructured(sparsity)), scope)
    expected = expected_masks(scores, layers, sparsity, scope)
    for name, mask in masks.items():
        assert np.array_equal(mask.numpy(), expected[name])
    if scope == "global":
        size = sum(mask.numel() for mask in masks.values())
        assert sum(int(mask.sum()) for mask in masks.values()) == round(sparsity * size)


def test_globally_a_layer_of_small_weights_loses_more():
    layers = {"small": layer_of("small", torch.full((2, 4), 0.1)),
              "large": layer_of("large", torch.full((2, 4), 1.0))}  # fmt: skip
    masks = masks_of(scores_of(layers), layers, dict.fromkeys(layers, Unstructured(0.5)), "global")
    assert masks["small"].all()
    assert not masks["large"].any()


@pytest.mark.parametrize("scope", ["layer", "row", "global"])
def test_groups_of_a_pattern_compete_among_themselves_in_any_scope(scope):
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
def test_layers_may_have_sparsities_of_their_own(scope):
    generator = torch.Generator().manual_seed(0)
    layers = {name: layer_of(name, torch.randn(4, 10, generator=generator)) for name in "ab"}
    masks = masks_of(
        scores_of(layers), layers, {"a": Unstructured(0.2), "b": Unstructured(0.7)}, scope
    )
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"a": 8, "b": 28}


def test_a_layer_that_is_stored_the_other_way_round_is_ranked_by_outputs_and_inputs():
    module = Conv1D(3, 6)
    nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
    layers = {"conv": Layer("conv", module, transposed=True)}
    masks = masks_of(scores_of(layers), layers, {"conv": Unstructured(0.5)}, "row")
    expected = module.weight.detach().abs().T.argsort(dim=1).argsort(dim=1) < 3
    assert torch.equal(masks["conv"], expected)


@given(models(), st.floats(0, 1))
def test_in_a_layer_magnitudes_go_as_by_the_plain_function(layers, sparsity):
    pattern = Unstructured(sparsity)
    masks = masks_of(scores_of(layers), layers, dict.fromkeys(layers, pattern), "layer")
    for name, layer in layers.items():
        weight = layer.weight.detach()
        assert torch.equal(
            masks[name], prune_mask(magnitude_scores(weight), pattern, per_row=False)
        )


WEIGHT = torch.arange(1.0, 17.0).view(2, 8)


HOW = {"wanda": {"per_row": True}, "sparsegpt": {"per_row": False, "corrected": True}}
"""How the methods that calibrate have their weights written."""


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_what_was_asked_for_is_written(method):
    layer = layer_of("a", WEIGHT)
    after = WEIGHT * torch.tensor([1.0, 0.0]).repeat(4)
    put("a", layer, after, Unstructured(0.5), **HOW[method])
    assert torch.equal(layer.weight, after)


def test_zeros_that_were_there_may_come_on_top():
    before = WEIGHT.clone()
    before[:, 4] = 0.0
    after = before * torch.tensor([1.0, 0.0]).repeat(4)
    layer = layer_of("a", before)
    put("a", layer, after, Unstructured(0.5), **HOW["wanda"])
    assert torch.equal(layer.weight, after)


@pytest.mark.parametrize("kept", [0, 3, 5, 8])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_too_many_or_too_few_zeros_are_refused(method, kept):
    layer = layer_of("a", WEIGHT)
    after = WEIGHT * (torch.arange(8) < kept)
    with pytest.raises(CompressionError, match=rf"a: {2 * (8 - kept)} zeros where 8 were asked"):
        put("a", layer, after, Unstructured(0.5), **HOW[method])
    assert torch.equal(layer.weight, WEIGHT)


def test_corrected_half_precision_weights_may_underflow():
    layer = layer_of("a", WEIGHT.half())
    after = WEIGHT.half() * torch.tensor([1, 0, 0, 0, 1, 0, 1, 0]).half()
    put("a", layer, after, Unstructured(0.5), **HOW["sparsegpt"])
    assert torch.equal(layer.weight, after)
    with pytest.raises(CompressionError, match="10 zeros where 8"):
        put("a", layer_of("a", WEIGHT.half()), after, Unstructured(0.5), **HOW["wanda"])


def test_a_group_that_keeps_too_many_is_refused():
    layer = layer_of("a", WEIGHT)
    after = WEIGHT * torch.tensor([1, 1, 1, 0, 1, 0, 0, 0])
    with pytest.raises(CompressionError, match="keeps more than 2:4"):
        put("a", layer, after, NofM(2, 4), **HOW["wanda"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    layer = layer_of("a", WEIGHT)
    after = WEIGHT * torch.tensor([1.0, 0.0]).repeat(4)
    after[0, 0] = value
    with pytest.raises(CompressionError, match="not finite"):
        put("a", layer, after, Unstructured(0.5), **HOW["wanda"])
