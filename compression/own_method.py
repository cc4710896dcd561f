"""Methods of a user: functions that take a model and give one back."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.recipe import Step


def check(model: PreTrainedModel, step: Step) -> None:
    """A user's function can only be checked by calling it."""


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Calls the function; one that returns None has changed the model in place.

    Raises:
        CompressionError: it returned something other than a model of transformers.
    """
    result = step.entry.implementation(compressed.model)
    model = compressed.model if result is None else result
    if not isinstance(model, PreTrainedModel):
        raise CompressionError(
            f"{step.name}: its function returned {type(model).__name__}, not a PreTrainedModel"
        )
    compressed.model = model.eval()
