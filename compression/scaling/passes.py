"""Forward passes on one small batch that run only the blocks of interest.

The outputs of all blocks are kept. A pass skips the blocks before the first one of interest and
ends after the last, so its cost does not grow with the depth of the model.
"""

import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack

from torch import Tensor
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import blocks
from compression_gates.compression.calibration.kept_outputs import KeptOutputs
from compression_gates.compression.calibration.replay import Replay, is_replayable
from compression_gates.compression.model.capture import Batch


class Passes:
    """Forward passes of a model on a batch, or on copies of it.

    Args:
        model: in evaluation mode, without a cache of keys and values.
        layers: names of layers; the blocks are those of these layers.
        batch: the inputs of the model.

    Attributes:
        outputs: the output of each block, in calling order. Empty if blocks cannot be skipped, for
            example because one is called several times.
        result: the first output of the model.
    """

    def __init__(self, model: PreTrainedModel, layers: Collection[str], batch: Batch):
        self.model = model
        self.batch = batch
        self.outputs: dict[str, object] = {}
        names = blocks(model, list(layers))
        entered: list[str] = []

        def record(name: str, output: object) -> None:
            entered.append(name)
            self.outputs[name] = output

        with ExitStack() as stack:
            for name, module in model.named_modules():
                if name in names:
                    hook = lambda _, __, output, name=name: record(name, output)  # noqa: E731
                    stack.enter_context(module.register_forward_hook(hook))
            self.result: Tensor = model(**batch)[0]
        if len(entered) > len(self.outputs) or not is_replayable(model, entered, batch):
            self.outputs = {}

    def block_of(self, name: str) -> str | None:
        """Return the name of the block that contains a module, or None if none can be skipped."""
        return next((block for block in self.outputs if name.startswith(block + ".")), None)

    def blocks_from(self, first: str, copies: int = 1) -> Iterator[tuple[str, object]]:
        """Run the blocks from ``first`` on, and yield the name and output of one after the other.

        Args:
            first: the name of a block.
            copies: number of copies of the batch, which must then have one row.
        """
        names = list(self.outputs)
        replay = Replay(self.model, names, [repeated(self.batch, copies)], KeptOutputs(sys.maxsize))
        for name in names[: names.index(first)]:
            replay.keep(name, 0, repeated(self.outputs[name], copies))
        for name in names[names.index(first) :]:
            with replay.until(name) as run:
                output = run(0)
            replay.keep(name, 0, output)
            yield name, output


def repeated(values: object, copies: int) -> object:
    """Return a batch, or the output of a block, with each row repeated."""
    if copies == 1:
        return values
    return tree_map_only(Tensor, lambda value: value.repeat_interleave(copies, 0), values)
