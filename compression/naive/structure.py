"""Make the layers of a baseline as small as those of a candidate, by the naive methods."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.low_rank.step import replace_by_factors
from compression_gates.compression.low_rank.svd import factorize
from compression_gates.compression.model.layers import Layer, all_layers
from compression_gates.compression.naive.treatment import Treatments
from compression_gates.compression.pruning.patterns import lowest_mask
from compression_gates.compression.structured.coupling import Coupling, ffn, heads
from compression_gates.compression.structured.cutting import Cut
from compression_gates.compression.structured.importance import unit_scores
from compression_gates.compression.structured.shrink import shrink


@torch.no_grad()
def restructure(compressed: Compressed, treatments: Treatments) -> None:
    """Remove the heads and neurons of lowest magnitude, and replace layers by factors.

    Raises:
        RecipeError: the shapes are not those of a model with fewer heads or neurons.
    """
    model = compressed.model
    if treatments.shapes:
        for find in (heads, ffn):
            couplings = find(model, all_layers(model))
            cuts = list(filter(None, (_cut(model, c, treatments.shapes) for c in couplings)))
            if cuts:
                shrink(compressed, cuts)
        _check_shapes(all_layers(model), treatments.shapes)
    for name, treatment in treatments.layers.items():
        if treatment.factored:
            layer = all_layers(model)[name]
            replace_by_factors(compressed, layer, *truncated(layer, treatment.rank))


def truncated(layer: Layer, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors of a layer's weight by truncated SVD, as :func:`factorize` does."""
    rows, columns = layer.weight.shape
    return factorize(layer.weight, ratio=rank * (rows + columns) / (rows * columns))


def _cut(
    model: PreTrainedModel, coupling: Coupling, shapes: Mapping[str, tuple[int, int]]
) -> Cut | None:
    """Return the cut that keeps as many units as a candidate has, None if it has all of them."""
    consumer = coupling.consumer
    if consumer.name not in shapes:
        return None
    kept = shapes[consumer.name][1] * coupling.units // consumer.in_features
    if not 0 < kept < coupling.units:
        return None
    scores = unit_scores(model, [coupling], "magnitude", ())[0]
    mask = lowest_mask(scores, coupling.units - kept)
    return Cut(coupling, (~mask).nonzero().flatten())


def _check_shapes(layers: Mapping[str, Layer], shapes: Mapping[str, tuple[int, int]]) -> None:
    for name, shape in shapes.items():
        if tuple(layers[name].weight.shape) != shape:
            raise RecipeError(
                f"layer {name}: removing heads and neurons does not give its shape {shape}"
            )
