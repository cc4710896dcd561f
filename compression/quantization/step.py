"""Runs a quantization step.

The function of a method is ``quantize(weight, step, moments, keep_zeros) -> Quantized``:

- ``weight`` is ``(rows, columns)``;
- ``step`` has the settings;
- ``moments`` are the statistics of the layer's inputs, including their products, if the method
  calibrates, otherwise None. An expert that no calibration token reached has zero ``tokens``;
- ``keep_zeros`` is whether weights that are zero must remain zero.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import groups_of
from compression_gates.compression.calibration.resources import in_host_memory
from compression_gates.compression.calibration.statistics import InputStatistics
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
from compression_gates.compression.quantization.activations import (
    input_format,
    round_inputs_of,
)
from compression_gates.compression.quantization.grids import group_count
from compression_gates.compression.recipe import Step, calibrates


def check(model: PreTrainedModel, step: Step) -> None:
    """Raise a RecipeError if a selected layer cannot be quantized with the step's settings."""
    layers, _ = _select(model, step)
    check_untied(model, layers)
    group = step.settings.get("group")
    if group is not None and step.settings.get("scale") == "tensor":
        raise RecipeError(
            f"{step.name}: group and scale=tensor contradict each other; leave out scale=tensor"
        )
    for name, layer in layers.items():
        with naming(name):
            group_count(layer.in_features, group)
        if layer.expert is not None and step.settings.get("activations"):
            raise RecipeError(
                f"layer {name}: the inputs of an expert cannot be rounded; "
                f"{excluding_experts(layers)}"
            )
    parameters = {id(layer.stored) for layer in layers.values() if layer.expert is not None}
    for name, layer in all_layers(model).items():
        if id(layer.stored) in parameters and name not in layers:
            raise RecipeError(
                f"layer {name}: the experts of one parameter are packed together; "
                "include or exclude all of them"
            )


def _select(model: PreTrainedModel, step: Step) -> tuple[dict[str, Layer], list[str]]:
    """Return the layers to quantize, and notes on selected layers that are left out."""
    if calibrates(step) or step.settings.get("activations"):
        return select_reached(model, step)
    return selected_layers(model, step), []


@torch.no_grad()
def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Quantize the selected layers in place, in calling order if the method calibrates.

    Raises:
        RecipeError: the step does not fit the model.
        CompressionError: the calibration failed, or a result is not finite, loses zeros of a mask,
            or has codes outside the range of the grid.
    """
    model = compressed.model
    layers, notes = _select(model, step)
    compressed.notes += notes
    for group in groups_of(model, layers, batches, calibrates(step), step.name):
        for name, moments in group.items():
            quantize_layer(compressed, name, layers[name], step, moments)


def quantize_layer(
    compressed: Compressed, name: str, layer: Layer, step: Step, moments: InputStatistics | None
) -> None:
    zeros = layer.weight == 0 if name in compressed.pruned else None
    with naming(name):
        quantized = step.entry.implementation(layer.weight, step, moments, zeros is not None)
    after = quantized.dequantized()
    if not after.isfinite().all():
        raise CompressionError(f"layer {name}: quantization left weights that are not finite")
    if zeros is not None and after[zeros].any():
        raise CompressionError(f"layer {name}: quantization changed zeros of a pruned layer")
    grid = quantized.grid
    if int(quantized.codes.max()) > grid.highest or int(quantized.codes.min()) < grid.lowest:
        raise CompressionError(f"layer {name}: a code is outside the range of {grid.bits} bits")
    layer.weight.copy_(after)
    activations = bool(step.settings.get("activations"))
    compressed.quantized[name] = replace(
        quantized,
        codes=in_host_memory(quantized.codes),
        scales=in_host_memory(quantized.scales),
        zeros=None if quantized.zeros is None else in_host_memory(quantized.zeros),
        activations=activations,
    )
    if activations:
        # Registered here so that later layers are calibrated with rounded inputs.
        round_inputs_of(layer.module, input_format(grid))
