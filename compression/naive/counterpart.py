"""Build the naive counterpart of a checkpoint from its baseline.

Each layer is treated like the candidate's, but without data, in the order prune, lower the rank,
quantize: magnitude pruning to the same number of zeros or N:M pattern (Han et al. 2015), truncated
SVD to the same rank, and rounding to nearest with scales from the largest weights. Removed heads
and neurons are those of lowest magnitude.
"""

import torch
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.model.layers import Layer, all_layers
from compression_gates.compression.naive.structure import restructure, truncated
from compression_gates.compression.naive.treatment import Treatment, Treatments
from compression_gates.compression.pruning.magnitude import prune
from compression_gates.compression.pruning.masks import PruningTask
from compression_gates.compression.pruning.patterns import NofM, Pattern, Unstructured
from compression_gates.compression.quantization.step import quantize_layer
from compression_gates.compression.recipe import NO_CHANGE


@torch.no_grad()
def naive_counterpart(model: PreTrainedModel, treatments: Treatments) -> Compressed:
    """Return a baseline that was treated as ``treatments`` say; ``model`` is changed in place.

    Raises:
        CompressionError: a treatment does not fit the model.
    """
    if treatments.dtype:
        model = model.to(getattr(torch, treatments.dtype))
    compressed = Compressed(model, NO_CHANGE)
    restructure(compressed, treatments)
    layers = all_layers(model)
    patterns = {
        name: _pattern(treatment, layers[name])
        for name, treatment in treatments.layers.items()
        if treatment.zeros
    }
    pruned = {name: layers[name] for name in patterns}
    if pruned:
        prune(PruningTask(compressed, pruned, patterns, NO_CHANGE.steps[0], ()))
        compressed.pruned |= patterns
    for name, treatment in treatments.layers.items():
        if treatment.rank and not treatment.factored:
            first, second = truncated(layers[name], treatment.rank)
            layers[name].weight.copy_(second @ first)
        if treatment.quantization:
            quantize_layer(compressed, name, layers[name], treatment.step, None)
    return compressed


def _pattern(treatment: Treatment, layer: Layer) -> Pattern:
    if treatment.pattern:
        return NofM(*treatment.pattern)
    return Unstructured(treatment.zeros / layer.weight.numel())
