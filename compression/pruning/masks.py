"""The layers to prune, masks from the scores of their weights, and writing pruned weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compression_gates.compression.calibration.driver import visit_groups
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError, naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import Layer, stack_of
from compression_gates.compression.pruning.patterns import (
    NofM,
    Pattern,
    Unstructured,
    global_masks,
    prune_mask,
)
from compression_gates.compression.recipe import Step


@dataclass(frozen=True)
class PruningTask:
    """The arguments of a pruning method.

    Attributes:
        compressed: the model and the record of its compression.
        layers: the layers to prune, by name.
        patterns: how many weights to prune, by layer.
        step: the step, with its settings.
        batches: the calibration or training data; empty for methods without data.
    """

    compressed: Compressed
    layers: Mapping[str, Layer]
    patterns: Mapping[str, Pattern]
    step: Step
    batches: Sequence[Batch]


Scores = tuple[Tensor, Tensor | None]
"""The scores of a layer's weights, and a second score that breaks ties, or None."""


def calibrated_layers(
    task: PruningTask, with_products: bool
) -> Iterator[tuple[str, Layer, InputStatistics]]:
    """Yield the name of each layer, the layer, and the statistics of its inputs.

    Layers are visited in calling order, so that the inputs are those of the model with the layers
    before them pruned.

    Raises:
        CompressionError: the calibration failed.
    """
    model, desc = task.compressed.model, task.step.name
    for group in visit_groups(model, task.layers, task.batches, with_products, desc):
        for name, moments in group.items():
            yield name, task.layers[name], moments


def prune_lowest(task: PruningTask, scores: Callable[[str], Scores]) -> None:
    """Set the weights with the lowest scores in the step's scope to zero.

    Args:
        task: the layers, their patterns, and a step with the setting ``scope``.
        scores: returns the scores of a layer by its name.
    """
    scope = task.step["scope"]
    apply_masks(task.layers, masks_by_score(scores, task.layers, task.patterns, scope))


def masks_by_score(
    scores: Callable[[str], Scores],
    layers: Iterable[str],
    patterns: Mapping[str, Pattern],
    scope: str,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each layer and the mask ``(out, in)`` of its lowest scores.

    Scores are computed one layer at a time, except in the scope ``global``: the scores of all
    layers take twice the memory of a model in half precision.

    Args:
        scores: returns the scores ``(out, in)`` of a layer by its name.
        layers: names of the layers.
        patterns: how many weights to prune, by layer.
        scope: ``layer``, ``row`` or ``global``; the weights that are compared with one another. An
            N:M pattern always compares within its groups.
    """
    pattern = next(iter(patterns.values()))
    if scope == "global" and isinstance(pattern, Unstructured):
        pairs = {name: scores(name) for name in layers}
        ties = {name: tie for name, (_, tie) in pairs.items() if tie is not None}
        yield from global_masks(
            {name: score for name, (score, _) in pairs.items()}, pattern, ties or None
        ).items()
        return
    for name in layers:
        with naming(name):
            score, tie = scores(name)
            mask = prune_mask(score, patterns[name], per_row=scope == "row", tie_break=tie)
        yield name, mask


def layer_view(layer: Layer, tensor: Tensor) -> Tensor:
    """Return the view ``(out, in)`` for ``layer`` of a tensor shaped like its stored parameter."""
    part = tensor if layer.expert is None else stack_of(layer.module, tensor)[layer.expert]
    return part.T if layer.transposed else part


@torch.no_grad()
def apply_masks(layers: Mapping[str, Layer], masks: Iterable[tuple[str, Tensor]]) -> None:
    """Set the weights where a mask ``(out, in)`` is true to zero, layer by layer."""
    for name, mask in masks:
        layers[name].weight.masked_fill_(mask, 0.0)


@torch.no_grad()
def write_pruned(
    name: str, layer: Layer, after: Tensor, pattern: Pattern, per_row: bool, corrected: bool = False
) -> None:
    """Check a pruned weight against its pattern and write it into the layer.

    Args:
        name: of the layer, for error messages.
        layer: the layer to write to.
        after: the pruned weight ``(out, in)``.
        pattern: the requested pattern.
        per_row: whether the number of zeros was rounded for each row separately.
        corrected: whether the remaining weights were updated, so that some may have underflowed
            to zero in half precision.

    Raises:
        CompressionError: the weight is not finite, has too few or too many zeros, or a group keeps
            more weights than the pattern allows.
    """
    before = layer.weight
    if not after.isfinite().all():
        raise CompressionError(f"layer {name}: pruning left weights that are not finite")
    zeros = int((after == 0).sum())
    expected = pattern.expected_zeros(*after.shape, per_row)
    # More zeros than expected can only be earlier zeros or underflowed corrections.
    exact = not corrected or before.dtype == torch.float32
    most = expected + int((before == 0).sum()) if exact else zeros
    if not expected <= zeros <= most:
        raise CompressionError(
            f"layer {name}: pruning left {zeros} zeros, but {expected} were requested"
        )
    if isinstance(pattern, NofM):
        kept = (after != 0).unflatten(1, (-1, pattern.m)).sum(dim=-1)
        if int(kept.max()) > pattern.n:
            raise CompressionError(
                f"layer {name}: a group keeps more weights than {pattern} allows"
            )
    before.copy_(after)
