"""Carries out a quantization step.

A method's function is ``quantize(weight, step, seen, keep_zeros) -> Quantized``:

- ``weight`` ``(rows, columns)``;
- ``step``, with its settings;
- ``seen``, the statistics of the layer's inputs with their products, where the method calibrates,
  otherwise None; of an expert that no calibration token reached they are of no token;
- ``keep_zeros``, whether weights that are zero must stay zero.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import InputStatistics, visit_blocks
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError, RecipeError, naming
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import (
    Layer,
    all_layers,
    check_untied,
    excluding_experts,
    selected_layers,
)
from compression_gates.compression.model.tracing import select_reached
from compression_gates.compression.quantization.activations import kind_of, round_inputs_of
from compression_gates.compression.quantization.grids import groups_of
from compression_gates.compression.recipe import Step, calibrates


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where a layer cannot be packed as asked."""
    layers, _ = _chosen(model, step)
    check_untied(model, layers)
    if step.settings.get("group") is not None and step.settings.get("scale") == "tensor":
        raise RecipeError(f"{step.name}: a group has scales of its own; leave out scale=tensor")
    for name, layer in layers.items():
        with naming(name):
            groups_of(layer.in_features, step.settings.get("group"))
        if layer.expert is not None and step.settings.get("activations"):
            raise RecipeError(
                f"layer {name}: activations of an expert cannot be rounded; "
                f"{excluding_experts(layers)}"
            )
    chosen = {id(layer.stored) for layer in layers.values() if layer.expert is not None}
    for name, layer in all_layers(model).items():
        if id(layer.stored) in chosen and name not in layers:
            raise RecipeError(
                f"layer {name}: experts of one parameter are packed together; "
                "include or exclude all of them"
            )


def _chosen(model: PreTrainedModel, step: Step) -> tuple[dict[str, Layer], list[str]]:
    """The layers that are quantized, and notes on those that are left out."""
    if calibrates(step) or step.settings.get("activations"):
        return select_reached(model, step)
    return selected_layers(model, step), []


@torch.no_grad()
def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Quantizes the layers that the step chooses, block by block where it calibrates."""
    model = compressed.model
    layers, notes = _chosen(model, step)
    compressed.notes += notes
    if not calibrates(step):
        for name, layer in layers.items():
            _store(compressed, name, layer, step, None)
    else:
        for block in visit_blocks(model, layers, batches, with_products=True, desc=step.name):
            for name, statistics in block.items():
                _store(compressed, name, layers[name], step, statistics)


def _store(
    compressed: Compressed, name: str, layer: Layer, step: Step, seen: InputStatistics | None
) -> None:
    zeros = layer.weight == 0 if name in compressed.pruned else None
    with naming(name):
        quantized = step.entry.implementation(layer.weight, step, seen, zeros is not None)
    after = quantized.dequantized()
    if not after.isfinite().all():
        raise CompressionError(f"layer {name}: quantization left weights that are not finite")
    if zeros is not None and after[zeros].any():
        raise CompressionError(f"layer {name}: quantization filled zeros of its mask")
    grid = quantized.grid
    if int(quantized.codes.max()) > grid.highest or int(quantized.codes.min()) < grid.lowest:
        raise CompressionError(f"layer {name}: a code is outside of {grid.bits} bits")
    layer.weight.copy_(after)
    activations = bool(step.settings.get("activations"))
    compressed.quantized[name] = quantized.with_activations(activations)
    if activations:
        # From now on, so that later blocks are calibrated on what they will be given.
        round_inputs_of(layer.module, kind_of(grid))
