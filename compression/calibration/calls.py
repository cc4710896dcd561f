"""Trace the order in which a model calls its blocks and their layers."""

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType

from torch import Tensor, nn
from torch.utils._pytree import SUPPORTED_NODES, tree_leaves
from transformers import PreTrainedModel

from compression_gates.compression.calibration.unrouted_experts import expert_of
from compression_gates.compression.errors import unreached
from compression_gates.compression.model.capture import Batch, capture_inputs
from compression_gates.compression.model.layers import Layer

Groups = Sequence[Sequence[str]]
"""Names of layers; those of one group have the same input tensors."""


@dataclass(frozen=True)
class Calls:
    """The calls of one forward pass.

    Attributes:
        groups: the groups of the layers of each block, both in calling order. Blocks and layers
            that are not called are last. Unrouted experts are where their numbers belong.
        uses: number of calls of each layer.
        sequential: whether each block is a module that is called once, outside the other blocks,
            and calls all its layers.
        ordered: the blocks that call each of their layers at most once, group after group.
        activations: size in bytes of the tensors that a forward pass holds when it calls a layer,
            for the layer with the most.
    """

    groups: Mapping[str, Groups]
    uses: Mapping[str, int]
    sequential: bool
    ordered: frozenset[str]
    activations: int


class _Tracer:
    """Records the calls of blocks and layers.

    Attributes:
        entered: the names of the blocks, in calling order.
        inputs: for each layer that is called, in calling order, numbers of its input tensors.
        sequential: as in :class:`Calls`.
        activations: as in :class:`Calls`.
    """

    def __init__(self, model: PreTrainedModel, block_of: Mapping[str, str]):
        self.entered: list[str] = []
        self.inputs: dict[str, list[int]] = {}
        self.sequential = True
        self.activations = 0
        self._block_of = block_of
        self._open: list[str] = []
        self._tensors: list[tuple[weakref.ref, int]] = []
        self._model = model
        self._addresses: set[int] = set()
        self._block_of_addresses: list[str] | None = None
        self._caller = sys._getframe(1)

    def enter(self, block: str) -> None:
        self.entered.append(block)
        self._open.append(block)

    def leave(self, *_: object) -> None:
        self._open.pop()

    def record(self, name: str, inputs: Tensor) -> None:
        self.sequential &= self._open == [self._block_of[name]]
        self.inputs.setdefault(name, []).append(self._number(inputs))
        held = _held_tensors(sys._getframe(1), self._caller)
        sizes = {_address(tensor): tensor.untyped_storage().nbytes() for tensor in held}
        size = sum(sizes[address] for address in sizes.keys() - self._addresses_of_weights())
        self.activations = max(self.activations, size)

    def _addresses_of_weights(self) -> set[int]:
        """Return the addresses of all weights, which change when a block of a model in host memory
        comes to the device."""
        if self._block_of_addresses != self._open:
            weights = (*self._model.parameters(), *self._model.buffers())
            self._block_of_addresses, self._addresses = [*self._open], set(map(_address, weights))
        return self._addresses

    def _number(self, inputs: Tensor) -> int:
        """Return a number that is the same for the same tensor, unless it is changed in place."""
        for number, (tensor, version) in enumerate(self._tensors):
            if tensor() is inputs and version == inputs._version:
                return number
        self._tensors.append((weakref.ref(inputs), inputs._version))
        return len(self._tensors) - 1


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
    tracer = _Tracer(model, block_of)
    with ExitStack() as stack:
        # Before the hooks of layers, because a block can be a layer.
        for block, module in block_modules(model, blocks).items():
            enter = module.register_forward_pre_hook(lambda *_, block=block: tracer.enter(block))
            stack.enter_context(enter)
            stack.enter_context(module.register_forward_hook(tracer.leave))
        stack.enter_context(capture_inputs(model, layers, tracer.record))
        model(**first_text(batch))
    called = tracer.inputs
    for name, layer in layers.items():
        if name not in called and not layer.routed:
            raise unreached(name)
    order = [*tracer.entered, *(block_of[name] for name in (*called, *layers))]
    groups, ordered = {}, set()
    for block in dict.fromkeys(order):
        names = [name for name in called if block_of[name] == block]
        unrouted = [name for name in blocks[block] if name not in called]
        complete = _with_unrouted(names, unrouted, layers)
        groups[block] = _grouped(complete, layers, called)
        once = all(len(called[name]) == 1 for name in names)
        placed = {_role(name) for name in unrouted} <= {_role(name) for name in names}
        if once and placed and [name for name in complete if name in called] == names:
            ordered.add(block)
    return Calls(
        groups,
        {name: len(numbers) for name, numbers in called.items()},
        tracer.sequential and Counter(tracer.entered) == Counter(blocks.keys()),
        frozenset(ordered),
        tracer.activations,
    )


def _grouped(
    names: Iterable[str], layers: Mapping[str, Layer], inputs: Mapping[str, Sequence[int]]
) -> Groups:
    """Return layers with the same inputs as one group; each layer of an expert is a group."""
    groups: dict[object, list[str]] = {}
    for name in names:
        groups.setdefault(name if layers[name].routed else tuple(inputs[name]), []).append(name)
    return list(groups.values())


def _with_unrouted(
    called: Sequence[str], unrouted: Sequence[str], layers: Mapping[str, Layer]
) -> list[str]:
    """Return the layers of a block in calling order, with those of unrouted experts among them.

    A mixture calls its experts in the order of their numbers: all layers of an expert before those
    of the next, or one layer of all experts before the next layer. Where no expert of a mixture is
    called, its layers are last.
    """
    routed = [name for name in called if layers[name].routed]
    roles = list(dict.fromkeys(map(_role, (*routed, *unrouted))))
    expert_by_expert = _inserted(
        called, routed, unrouted, lambda name: expert_of(name)[0],
        lambda name: (int(expert_of(name)[1]), roles.index(_role(name))),
    )  # fmt: skip
    if [name for name in expert_by_expert if name not in unrouted] == list(called):
        return expert_by_expert
    return _inserted(called, routed, unrouted, _role, lambda name: int(expert_of(name)[1]))


def stages(groups: Groups, layers: Mapping[str, Layer]) -> list[Groups]:
    """Return the groups of a block in calling order, those with the same role in experts as one.

    The inputs of an expert do not depend on the weights of other experts.
    """
    merged: dict[object, list[Sequence[str]]] = {}
    for number, group in enumerate(groups):
        name = group[0]
        merged.setdefault(_role(name) if layers[name].routed else number, []).append(group)
    return list(merged.values())


def _inserted(
    called: Sequence[str],
    routed: Sequence[str],
    unrouted: Sequence[str],
    part: Callable[[str], str],
    key: Callable[[str], object],
) -> list[str]:
    """Return ``called`` with the ``unrouted`` layers, each part sorted where its first layer is."""
    order = list(called)
    for current in dict.fromkeys(map(part, unrouted)):
        members = [name for name in routed if part(name) == current]
        missing = [name for name in unrouted if part(name) == current]
        start = order.index(members[0]) if members else len(order)
        order = [name for name in order if name not in members]
        order[start:start] = sorted((*members, *missing), key=key)
    return order


def _role(name: str) -> str:
    """Return the name of an expert's layer without the number of the expert."""
    mixture, number = expert_of(name)
    layer = name.removeprefix(mixture)
    if layer.endswith(f".{number}"):
        return mixture + layer.removesuffix(f".{number}")
    return mixture + layer.replace(number, "", 1)


def _held_tensors(frame: FrameType | None, last: FrameType) -> Iterable[Tensor]:
    """Yield the tensors in local variables of a frame and of its callers up to ``last``."""
    while frame is not None and frame is not last:
        for value in list(frame.f_locals.values()):
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple | dict) or type(value) in SUPPORTED_NODES:
                yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
        frame = frame.f_back


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def block_modules(model: PreTrainedModel, blocks: Mapping[str, object]) -> dict[str, nn.Module]:
    """Return the modules of ``blocks`` by name; experts outside a block are not modules."""
    return {name: module for name, module in model.named_modules() if name in blocks}


def first_text(batch: Batch) -> Batch:
    """Return the first text of a batch, with its padding."""
    return {key: value[:1] for key, value in batch.items()}
