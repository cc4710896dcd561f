"""User-defined methods: functions that take a model and return one."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.recipe import Step


def check(model: PreTrainedModel, step: Step) -> None:
    """Accept every model: a user-defined function can only be checked by calling it."""


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Call the function; if it returns None, it has changed the model in place.

    Raises:
        CompressionError: it returned neither None nor a ``PreTrainedModel``.
    """
    result = step.entry.implementation(compressed.model)
    model = compressed.model if result is None else result
    if not isinstance(model, PreTrainedModel):
        raise CompressionError(
            f"{step.name}: the function returned {type(model).__name__}; return a PreTrainedModel "
            "or None"
        )
    compressed.model = model.eval()
