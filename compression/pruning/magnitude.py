"""Magnitude pruning (Han et al. 2015, "Learning both weights and connections", section 3).

The weights with the smallest absolute values are pruned. They are compared within a layer, within
a row or over the whole model::

    S_ij = |W_ij|
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.pruning.masks import Scores, apply_masks, masks_by_score
from compression_gates.compression.pruning.patterns import Pattern
from compression_gates.compression.recipe import Step


def magnitude_scores(weight: Tensor) -> Tensor:
    """Return the absolute values of ``weight``, of any shape, in float32."""
    return weight.float().abs()


def prune(
    compressed: Compressed,
    layers: Mapping[str, Layer],
    patterns: Mapping[str, Pattern],
    step: Step,
    batches: Sequence[Batch],
) -> None:
    """Prune ``layers`` in place; ``batches`` are not used."""

    def scores(name: str) -> Scores:
        return magnitude_scores(layers[name].weight.detach()), None

    apply_masks(layers, masks_by_score(scores, layers, patterns, step["scope"]))
