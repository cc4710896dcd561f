"""Steps that select how layers are stored.

The function of a method is ``mark(compressed, step)``. It records in ``compressed`` how layers are
to be stored.
"""

from collections.abc import Sequence

from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import all_layers, check_untied, selected_layers
from compression_gates.compression.recipe import Step


def check(model: PreTrainedModel, step: Step) -> None:
    """Raise a RecipeError if no layer is selected, or a tied one."""
    check_untied(model, selected_layers(model, step))


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Run the step."""
    step.entry.implementation(compressed, step)


def bitmask(compressed: Compressed, step: Step) -> None:
    """Store the selected layers as a bitmask and nonzero values, unless they are quantized.

    Experts that share a parameter are stored together, so all of them must be selected.
    """
    selected = selected_layers(compressed.model, step)
    stacks: dict[str, list[str]] = {}
    for name, layer in all_layers(compressed.model).items():
        stacks.setdefault(layer.stored_name, []).append(name)
    compressed.bitmask, partly = [], []
    for stored, members in stacks.items():
        sparse = [n for n in members if n in selected and n not in compressed.quantized]
        if 0 < len(sparse) < len(members):
            partly.append(stored)
        elif sparse and _saves(compressed.model.get_parameter(stored)):
            compressed.bitmask += members
    if partly:
        compressed.notes.append(
            f"bitmask: {', '.join(partly)}: stored dense, because experts of one parameter are "
            "stored together and only some of them are selected"
        )
    if not compressed.bitmask:
        compressed.notes.append("bitmask: no layer has enough zeros to become smaller")


def _saves(weight) -> bool:
    """Return whether bitmask and values are smaller than the weight."""
    values = int((weight != 0).sum()) * weight.element_size()
    return -(-weight.numel() // 8) + values < weight.numel() * weight.element_size()
