"""Wanda: pruning by weights and activations (Sun et al. 2024, section 3, equation 1).

A weight matters as much as the signal that it carries. Its score is its magnitude times the
norm of its input feature over the calibration tokens, compared within each output row::

    S_ij = |W_ij| * ||X_j||_2

Weights are not updated.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compression_gates.compression.calibration.driver import visit_blocks
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.pruning.masks import put
from compression_gates.compression.pruning.patterns import Pattern, prune_mask
from compression_gates.compression.recipe import Step


def wanda_scores(weight: Tensor, input_norm: Tensor) -> Tensor:
    """Scores ``(rows, columns)`` of ``weight`` for input norms ``(columns,)``, in float32."""
    return weight.float().abs() * input_norm.float()


def wanda(weight: Tensor, input_norm: Tensor, pattern: Pattern) -> Tensor:
    """``weight`` ``(rows, columns)`` with its lowest-scoring entries set to zero.

    Weights on features that never fire all score zero; among them the smallest goes first.
    """
    scores = wanda_scores(weight, input_norm)
    mask = prune_mask(scores, pattern, per_row=True, tie_break=weight.float().abs())
    return weight.masked_fill(mask, 0.0)


def prune(
    compressed: Compressed,
    layers: Mapping[str, Layer],
    patterns: Mapping[str, Pattern],
    step: Step,
    batches: Sequence[Batch],
) -> None:
    """Prunes ``layers`` in place, block by block on the inputs that the pruned blocks before give.

    Without any input all scores tie, and the smallest magnitudes go.
    """
    for block in visit_blocks(compressed.model, layers, batches, False, desc=step.name):
        for name, seen in block.items():
            with naming(name):
                after = wanda(layers[name].weight.detach(), seen.norm, patterns[name])
            put(name, layers[name], after, patterns[name], per_row=True)
