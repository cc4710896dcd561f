"""Run a model whose weights are in host memory on a device, one block at a time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from compression_gates.compression.model.capture import forward_replaced

Place = Callable[[str], None]
"""Brings the block that contains the module or layer of a name to the device."""


class _Offloaded:
    """The blocks of a model, at most one of which is on the device.

    Attributes:
        blocks: the tensors of each block by its name, without those that are used outside blocks.
        outside: all other tensors of the model, which remain on the device.
    """

    def __init__(self, model: nn.Module, blocks: Iterable[str], device: torch.device):
        modules = {name: model.get_submodule(name) for name in blocks}
        inside = {id(part) for module in modules.values() for part in module.modules()}
        self.outside = [
            tensor
            for part in model.modules()
            if id(part) not in inside
            for tensor in _tensors(part, recurse=False)
        ]
        shared = {id(tensor) for tensor in self.outside}
        self.blocks = {
            name: [tensor for tensor in _tensors(module) if id(tensor) not in shared]
            for name, module in modules.items()
        }
        self._device = device
        self._resident: str | None = None

    def place(self, name: str) -> None:
        block = next((b for b in self.blocks if f"{name}.".startswith(f"{b}.")), None)
        if block is None or block == self._resident:
            return
        self.release()
        move(self.blocks[block], self._device)
        self._resident = block

    def release(self) -> None:
        if self._resident is not None:
            move(self.blocks[self._resident], torch.device("cpu"))
        self._resident = None


def _tensors(module: nn.Module, recurse: bool = True) -> list[Tensor]:
    return [*module.parameters(recurse), *module.buffers(recurse)]


def move(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Move tensors in place, so that they remain the parameters and buffers of their modules."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device)


@contextmanager
def offloaded(
    model: nn.Module, blocks: Iterable[str], device: torch.device | None
) -> Iterator[Place]:
    """Run a model in host memory on ``device``, and give a function that brings a block there.

    The rest of the model, such as embeddings and output head, is on the device until exit. A block
    comes to the device when it is called, and remains there until another one is called.

    Args:
        model: the model, on the CPU.
        blocks: names of the blocks; none contains another.
        device: the device, or None to run the model where it is.
    """
    if device is None:
        yield lambda _: None
        return
    weights = _Offloaded(model, blocks, device)

    def placed(name: str, forward: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            weights.place(name)
            return forward(*args, **kwargs)

        return run

    with ExitStack() as stack:
        stack.callback(move, weights.outside, torch.device("cpu"))
        stack.callback(weights.release)
        move(weights.outside, device)
        for name in weights.blocks:
            block = model.get_submodule(name)
            stack.enter_context(forward_replaced(block, placed(name, block.forward)))
        yield weights.place
