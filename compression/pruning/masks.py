"""Which weights go by their scores, and writing pruned weights back."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from compression_gates.compression.errors import CompressionError, naming
from compression_gates.compression.model.layers import Layer, stack_of
from compression_gates.compression.pruning.patterns import (
    NofM,
    Pattern,
    Unstructured,
    global_masks,
    prune_mask,
)

Scores = tuple[Tensor, Tensor | None]
"""Scores of a layer's weights, and what decides among equal ones."""


def masks_of(
    scores: Callable[[str], Scores],
    layers: Iterable[str],
    patterns: Mapping[str, Pattern],
    scope: str,
) -> Iterator[tuple[str, Tensor]]:
    """The mask of the pruned weights of each layer, by lowest score in the scope.

    One layer at a time, but where all layers compete: scores of a large model take twice its
    memory.
    """
    pattern = next(iter(patterns.values()))
    if scope == "global" and isinstance(pattern, Unstructured):
        found = {name: scores(name) for name in layers}
        ties = {name: tie for name, (_, tie) in found.items() if tie is not None}
        yield from global_masks(
            {name: score for name, (score, _) in found.items()}, pattern, ties or None
        ).items()
        return
    for name in layers:
        with naming(name):
            score, tie = scores(name)
            mask = prune_mask(score, patterns[name], per_row=scope == "row", tie_break=tie)
        yield name, mask


def part_of(layer: Layer, tensor: Tensor) -> Tensor:
    """The layer's part ``(out, in)`` of a tensor like the parameter that stores its weight."""
    part = tensor if layer.expert is None else stack_of(layer.module, tensor)[layer.expert]
    return part.T if layer.transposed else part


@torch.no_grad()
def apply_masks(layers: Mapping[str, Layer], masks: Iterable[tuple[str, Tensor]]) -> None:
    """Sets the masked weights to zero, layer by layer."""
    for name, pruned in masks:
        layers[name].weight.masked_fill_(pruned, 0.0)


@torch.no_grad()
def put(
    name: str, layer: Layer, after: Tensor, pattern: Pattern, per_row: bool, corrected: bool = False
) -> None:
    """Writes the pruned weight once it is what was asked for.

    Args:
        name: of the layer, for errors.
        layer: whose weight is written.
        after: the pruned weight ``(out, in)``.
        pattern: what was asked for.
        per_row: every row has its own share of zeros, which is rounded row by row.
        corrected: the weights that stay were changed, so that in half precision some may have
            become zero.

    Raises:
        CompressionError: not finite, too few or too many zeros, or a group with too many weights.
    """
    before = layer.weight
    if not after.isfinite().all():
        raise CompressionError(f"layer {name}: pruning left weights that are not finite")
    zeros = int((after == 0).sum())
    expected = pattern.expected_zeros(*after.shape, per_row)
    # Only zeros that were there may exceed it, and corrected weights that underflow.
    exact = not corrected or before.dtype == torch.float32
    most = expected + int((before == 0).sum()) if exact else zeros
    if not expected <= zeros <= most:
        raise CompressionError(f"layer {name}: {zeros} zeros where {expected} were asked for")
    if isinstance(pattern, NofM):
        kept = (after != 0).unflatten(1, (-1, pattern.m)).sum(dim=-1)
        if int(kept.max()) > pattern.n:
            raise CompressionError(f"layer {name}: a group keeps more than {pattern}")
    before.copy_(after)
