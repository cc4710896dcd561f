"""Run one block of a model at a time, on the kept outputs of the block before it.

The model itself is called, so that everything between its blocks is computed as usual. Blocks that
are finished are skipped: each returns the kept output of the last finished block of its
:class:`torch.nn.ModuleList`, which is what the next block receives. A forward pass ends with the
block of interest. For each batch, one output per ModuleList is kept.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from compression_gates.compression.calibration.calls import first_text
from compression_gates.compression.calibration.kept_outputs import KeptOutputs
from compression_gates.compression.model.capture import Batch, forward_replaced

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)
"""Types of inputs of a block, other than tensors, that cannot pass state between blocks."""


class _Reached(Exception):  # noqa: N818 - control flow, not an error
    """Ends a forward pass at the block of interest; its argument is the result."""


class Replay:
    """Runs a model on batches, block by block.

    Args:
        model: in evaluation mode.
        names: the names of its blocks, in calling order.
        batches: the batches.
        outputs: keeps the outputs of blocks.

    Attributes:
        last: the name of the last block.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        names: Sequence[str],
        batches: Sequence[Batch],
        outputs: KeptOutputs,
    ):
        self.model = model
        self.batches = batches
        self.last = names[-1]
        self._outputs = outputs
        self._blocks = {name: model.get_submodule(name) for name in names}
        self._finished: dict[str, str] = {}
        """The key of the kept output that each finished block returns."""

    @contextmanager
    def until(
        self, name: str, forward: Callable[..., object] | None = None
    ) -> Iterator[Callable[[int], object]]:
        """Give a function that runs a block on the batch of an index and returns its output.

        The function returns None if the batch does not reach the block.

        Args:
            name: the name of the block; all earlier blocks must be finished.
            forward: what to call in place of the block's forward function.
        """
        forward = forward or self._blocks[name].forward
        current = 0
        kept: dict[str, object] = {}

        def skip(key: str) -> object:
            if key not in kept:
                kept[key] = self._outputs.get((current, key))
            return kept[key]

        def end(*args: object, **kwargs: object) -> object:
            kept.clear()
            raise _Reached(forward(*args, **kwargs))

        def run(number: int) -> object:
            nonlocal current
            current = number
            kept.clear()
            try:
                self.model(**self.batches[number])
            except _Reached as reached:
                return reached.args[0]
            return None

        with ExitStack() as stack:
            for finished, key in self._finished.items():
                output = lambda *_, key=key, **__: skip(key)  # noqa: E731
                stack.enter_context(forward_replaced(self._blocks[finished], output))
            stack.enter_context(forward_replaced(self._blocks[name], end))
            yield run

    def finish(self, name: str) -> None:
        """Run a block and keep its outputs; from then on it is skipped."""
        with self.until(name) as run:
            for number in range(len(self.batches)):
                self.keep(name, number, run(number))

    def keep(self, name: str, number: int, output: object) -> None:
        """Keep the output of a block for the batch of an index; from then on it is skipped."""
        parent = name.rpartition(".")[0]
        key = parent if isinstance(self.model.get_submodule(parent), nn.ModuleList) else name
        self._finished[name] = key
        if output is not None:
            self._outputs.put((number, key), output)


def is_replayable(model: PreTrainedModel, names: Sequence[str], batch: Batch) -> bool:
    """Return whether the inputs of every block are the same when earlier blocks are skipped.

    The inputs are compared exactly, on the first text of a batch. They differ where a model passes
    outputs of a block to other blocks than the next, or changes them in place.

    Args:
        model: in evaluation mode.
        names: the names of its blocks, which are called once each, in this order.
        batch: the batch.
    """
    replay = Replay(model, names, [first_text(batch)], KeptOutputs(sys.maxsize))
    inputs: dict[str, list[object]] = {}
    outputs: dict[str, object] = {}
    changes: dict[str, list[int]] = {}

    def recording(name: str, forward: Callable[..., object]) -> Callable[..., object]:
        def record(*args: object, **kwargs: object) -> object:
            inputs[name] = tree_leaves((args, kwargs))
            outputs[name] = forward(*args, **kwargs)
            changes[name] = _changes_in_place(outputs[name])
            return outputs[name]

        return record

    with ExitStack() as stack:
        for name in names:
            block = model.get_submodule(name)
            stack.enter_context(forward_replaced(block, recording(name, block.forward)))
        model(**replay.batches[0])
    if any(changes[name] != _changes_in_place(outputs[name]) for name in names):
        return False
    for previous, name in pairwise(names):
        replay.keep(previous, 0, outputs[previous])
        with replay.until(name, lambda *args, **kwargs: tree_leaves((args, kwargs))) as run:
            if not _same(inputs[name], run(0)):
                return False
    return True


def _changes_in_place(output: object) -> list[int]:
    """Return how often each tensor was changed in place."""
    return [leaf._version for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _same(inputs: list[object], others: list[object] | None) -> bool:
    """Return whether inputs of a block are equal, and no object among them can pass state."""
    return others is not None and len(inputs) == len(others) and all(map(_equal, inputs, others))


def _equal(value: object, other: object) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value.dtype == other.dtype and torch.equal(value, other)
    return isinstance(value, _PLAIN) and value == other
