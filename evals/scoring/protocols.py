"""How each task is run. Part of a measurement's key, and importable without torch."""

from dataclasses import asdict, dataclass, fields, replace
from typing import TypeVar

from compression_gates.evals.checkpoints.checkpoint import CLASSIFIER, EXTRACTIVE
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.statistics.sequential import LOOKS

Protocol = TypeVar("Protocol")

WINDOW = 2048
"""Tokens of a window of text, as far as a model takes them."""
STOP = "\n"
"""A continuation ends here, unless its data set says otherwise."""


class _Batched:
    """A protocol whose ``batch_tokens`` are no part of its key: they change no score."""

    def describe(self) -> dict[str, object]:
        told = asdict(self)
        del told["batch_tokens"]
        return told


@dataclass(frozen=True)
class TextProtocol(_Batched):
    """How text becomes predictions. Part of a measurement's key.

    Attributes:
        context: tokens of a window, as far as the model takes them; None takes :data:`WINDOW`.
        stride: tokens between windows; None takes the context.
        tail: ``keep`` or ``drop`` a last window that is shorter than the context.
        chat: whether prompts are put as a user's turn through the model's chat template.
        batch_tokens: tokens of a padded batch.
    """

    context: int | None = None
    stride: int | None = None
    tail: str = "keep"
    chat: bool = False
    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        return {"task": "text", **super().describe()}


@dataclass(frozen=True)
class GenerationProtocol(_Batched):
    """How prompts become answers. Part of a measurement's key.

    Attributes:
        max_new_tokens: of an answer.
        stop: an answer ends before it; without one, where the model ends it.
        extract: what of an answer counts, as :func:`evals.data.tables.extracted` has it.
        chat: whether prompts are put as a user's turn through the model's chat template.
        batch_tokens: tokens of a padded batch.
    """

    max_new_tokens: int = 24
    stop: str = STOP
    extract: str = ""
    chat: bool = False
    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        return {"task": "generation", "decoding": "greedy", **super().describe()}


@dataclass(frozen=True)
class ContinuationProtocol(_Batched):
    """How far prompts are continued. Part of a measurement's key.

    Attributes:
        max_new_tokens: of a continuation, which ends earlier where the model ends it.
        chat: whether prompts are put as a user's turn through the model's chat template.
        batch_tokens: tokens of a padded batch.
    """

    max_new_tokens: int = 64
    chat: bool = False
    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        return {"task": "continuation", "decoding": "greedy", **super().describe()}


@dataclass(frozen=True)
class ClassProtocol(_Batched):
    """How texts are classified. Part of a measurement's key."""

    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        return {"task": "classes", **super().describe()}


@dataclass(frozen=True)
class ExtractionProtocol(_Batched):
    """How questions are answered by pieces of their context. Part of a measurement's key.

    Attributes:
        length: tokens of a window at most, the question included.
        stride: tokens by which the windows of a long context overlap.
        longest: tokens of an answer at most.
        batch_tokens: tokens of a padded batch.
    """

    length: int = 384
    stride: int = 128
    longest: int = 30
    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        return {"task": "extraction", **super().describe()}


@dataclass(frozen=True)
class SpeedProtocol:
    """What is timed. Part of a measurement's key.

    Attributes:
        looks: numbers of pairs after which timing may stop.
        budget: seconds after which it does stop.
        warmup: pairs before the first that counts.
        batch_tokens: tokens of the batch that is timed.
    """

    looks: tuple[int, ...] = LOOKS
    budget: float = 60.0
    warmup: int = 1
    batch_tokens: int = 1024

    def describe(self) -> dict[str, object]:
        return {"task": "speed", "timed": "forward", **asdict(self)}


def protocol_of(kind: str, data: DataSet) -> tuple[object, tuple[str, str]]:
    """How a data set is scored by a kind of model where tokens are not predicted, and the module
    and function that do it."""
    if kind == CLASSIFIER:
        return set_by(data, ClassProtocol()), ("classes", "classify")
    if kind == EXTRACTIVE:
        return set_by(data, ExtractionProtocol()), ("answers", "extract")
    return set_by(data, GenerationProtocol()), ("generation", "generate")


def set_by(data: DataSet, protocol: Protocol, leave: str = "") -> Protocol:
    """A protocol with what the data set says of it, but for what is to be left as it is."""
    names = {field.name for field in fields(protocol)} - {leave}
    return replace(protocol, **{key: data.how[key] for key in data.how if key in names})
