"""Run a block once on all batches, and pause before each group of its layers.

The forward pass of each batch is a coroutine. It pauses at the first layer of a group, whose inputs
are recorded, and continues once the caller has compressed the group in all batches. Later layers
therefore receive what the compressed ones give, although the block runs only once. Meanwhile the
activations of all batches are in memory.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor

from compression_gates.compression.calibration.calls import Groups
from compression_gates.compression.calibration.coroutine import Coroutine
from compression_gates.compression.calibration.recording import Recorder, checked
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import (
    capture_expert_inputs,
    capture_module_inputs,
)

Forward = Callable[[int], object]
"""Runs a block on the batch of an index, and returns its output."""


class _Run:
    """The forward pass of one batch through a block.

    Attributes:
        group: index of the group at which it pauses; -1 before it starts, and ``len(groups)`` once
            the block has returned.
        inputs: the inputs of that group.
    """

    def __init__(self, function: Callable[[], object]):
        self.coroutine = Coroutine(function)
        self.group = -1
        self.inputs: Tensor | None = None
        self.called: set[str] = set()
        self.passed: set[int] = set()


class BlockRuns:
    """The forward passes of all batches through a block, of which one runs at a time.

    Args:
        recorder: the model, its layers and the batches.
        groups: the groups of the block's layers, in calling order.
        forward: runs the block.
    """

    def __init__(self, recorder: Recorder, groups: Groups, forward: Forward):
        self._recorder = recorder
        self._groups = groups
        self._forward = forward
        self._group_of = {name: n for n, group in enumerate(groups) for name in group}
        self._layers = {name: recorder.layers[name] for name in self._group_of}
        self._running: _Run | None = None
        self._runs = [
            _Run(lambda number=number: self._in_thread(number))
            for number in range(len(recorder.batches))
        ]
        self._hooks = ExitStack()

    def __enter__(self) -> "BlockRuns":
        self._hooks.enter_context(capture_module_inputs(self._layers, self._pause))
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.coroutine.close()
        self._hooks.close()

    def statistics(self, number: int) -> dict[str, InputStatistics]:
        """Return the statistics of the group of an index; the groups before it are compressed.

        Raises:
            CompressionError: inputs are not finite, or a batch calls layers in another order.
        """
        moments = self._recorder.moments(self._groups[number])
        for index, run in enumerate(self._runs):
            if run.group < number:
                self._advance(run)
            if run.group == number:
                self._recorder.add(moments, run.inputs, index)
                run.inputs = None
        return checked(self._groups[number], moments)

    def outputs(self) -> Iterator[object]:
        """Yield the output of the block for each batch, after all groups are compressed."""
        for run in self._runs:
            if not run.coroutine.finished:
                self._advance(run)
            yield run.coroutine.result
            run.coroutine.result = None

    def _advance(self, run: _Run) -> None:
        """Continue a run until it pauses at its next group or returns."""
        self._running = run
        try:
            run.coroutine.resume()
        finally:
            self._running = None
        if run.coroutine.finished:
            run.group = len(self._groups)

    def _in_thread(self, number: int) -> object:
        with ExitStack() as stack:
            # These belong to a thread.
            stack.enter_context(torch.no_grad())
            if self._recorder.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self._recorder.device))
            stack.enter_context(capture_expert_inputs(self._layers, self._pause))
            return self._forward(number)

    def _pause(self, name: str, inputs: Tensor) -> None:
        run, group = self._running, self._group_of[name]
        if run is None:  # the caller runs the model while it compresses a group, or has ended
            for other in self._runs:
                other.coroutine.end_if_closed()
            return
        if name in run.called or (group < run.group and group not in run.passed):
            raise CompressionError(
                f"layer {name}: the batches call it in different orders; give --memory 0, which "
                "runs the block for each layer"
            )
        run.called.add(name)
        if group not in run.passed:
            run.passed.add(group)
            run.group, run.inputs = group, inputs
            run.coroutine.suspend()
