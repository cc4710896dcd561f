"""Trace the order in which a model calls its blocks and their layers."""

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.errors import unreached
from compression_gates.compression.model.capture import Batch, capture_inputs
from compression_gates.compression.model.layers import Layer


@dataclass(frozen=True)
class Calls:
    """The calls of one forward pass.

    Attributes:
        blocks: the names of the layers of each block, both in calling order. Blocks and layers that
            are not called, such as unrouted experts, are last.
        uses: number of calls of each layer.
        leaders: for each layer the first layer with the same input tensors.
        sequential: whether each block is a module that is called once, outside the other blocks,
            and calls all its layers.
    """

    blocks: Mapping[str, Sequence[str]]
    uses: Mapping[str, int]
    leaders: Mapping[str, str]
    sequential: bool


def trace_calls(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    blocks: Mapping[str, Sequence[str]],
    batch: Batch,
) -> Calls:
    """Return the calls of a forward pass on the first text of a batch.

    Args:
        model: in evaluation mode.
        layers: the layers to trace.
        blocks: the names of the layers of each block.
        batch: the batch.

    Raises:
        RecipeError: a layer is not called, except for experts.
    """
    block_of = {name: block for block, names in blocks.items() for name in names}
    inputs_of: dict[str, list[int]] = {}
    tensors: list[weakref.ref] = []
    entered: list[str] = []
    open_blocks: list[str] = []
    sequential = True

    def record(name: str, inputs: Tensor) -> None:
        nonlocal sequential
        sequential &= open_blocks == [block_of[name]]
        number = next((i for i, tensor in enumerate(tensors) if tensor() is inputs), len(tensors))
        if number == len(tensors):
            tensors.append(weakref.ref(inputs))
        inputs_of.setdefault(name, []).append(number)

    def enter(block: str) -> None:
        entered.append(block)
        open_blocks.append(block)

    def leave(*_: object) -> None:
        open_blocks.pop()

    with ExitStack() as stack:
        # Before the hooks of layers, because a block can be a layer.
        for block, module in block_modules(model, blocks).items():
            stack.enter_context(
                module.register_forward_pre_hook(lambda *_, block=block: enter(block))
            )
            stack.enter_context(module.register_forward_hook(leave))
        stack.enter_context(capture_inputs(model, layers, record))
        model(**first_text(batch))
    for name, layer in layers.items():
        if name not in inputs_of and not layer.routed:
            raise unreached(name)
    first: dict[tuple[int, ...], str] = {}
    leaders = {
        name: name if layers[name].routed else first.setdefault(tuple(numbers), name)
        for name, numbers in inputs_of.items()
    }
    called = [*inputs_of, *(name for name in layers if name not in inputs_of)]
    order = dict.fromkeys([*entered, *(block_of[name] for name in called)])
    sequential &= Counter(entered) == Counter(blocks.keys())
    return Calls(
        {block: [name for name in called if block_of[name] == block] for block in order},
        {name: len(numbers) for name, numbers in inputs_of.items()},
        leaders,
        sequential,
    )


def block_modules(model: PreTrainedModel, blocks: Mapping[str, object]) -> dict[str, nn.Module]:
    """Return the modules of ``blocks`` by name; experts outside a block are not modules."""
    return {name: module for name, module in model.named_modules() if name in blocks}


def first_text(batch: Batch) -> Batch:
    """Return the first text of a batch, with its padding."""
    return {key: value[:1] for key, value in batch.items()}
