"""Stores pruned layers as a bitmask and the values that are not zero.

A dense file saves nothing for its zeros; this one takes a bit a weight and the values.

A method's function is ``mark(compressed, step)``: it says how layers are stored.
"""

from collections.abc import Sequence

from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import all_layers, check_untied, selected_layers
from compression_gates.compression.recipe import Step


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where no layer is chosen, or one that is tied."""
    check_untied(model, selected_layers(model, step))


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Carries out the step."""
    step.entry.implementation(compressed, step)


def bitmask(compressed: Compressed, step: Step) -> None:
    """Marks the pruned layers that are chosen; quantized ones are packed already.

    Experts that share a parameter are stored together, so all of them have to be chosen.
    """
    chosen = selected_layers(compressed.model, step)
    stacks: dict[str, list[str]] = {}
    for name, layer in all_layers(compressed.model).items():
        stacks.setdefault(layer.stored_name, []).append(name)
    compressed.bitmask, partly = [], []
    for stored, members in stacks.items():
        known = [n for n in members if n in chosen and n not in compressed.quantized]
        if 0 < len(known) < len(members):
            partly.append(stored)
        elif known and _saves(compressed.model.get_parameter(stored)):
            compressed.bitmask += members
    if partly:
        compressed.notes.append(
            f"bitmask: {', '.join(partly)}: experts of one parameter are stored together, and only "
            "some of them are chosen; they stay dense"
        )
    if not compressed.bitmask:
        compressed.notes.append("bitmask: no layer has zeros enough to save anything")


def _saves(weight) -> bool:
    """Whether mask and values are smaller than the weight."""
    values = int((weight != 0).sum()) * weight.element_size()
    return -(-weight.numel() // 8) + values < weight.numel() * weight.element_size()
