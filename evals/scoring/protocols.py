"""Scoring protocols: the settings of each task. They are part of a measurement's key.

This module does not import torch.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar, Self

from compression_gates.evals.data.items import KEEP, ProtocolOverrides
from compression_gates.evals.statistics.sequential import LOOKS

WINDOW = 2048
"""Default number of tokens in a window of text; less if the model's context is shorter."""
STOP = "\n"
"""Default text that ends an answer."""


@dataclass(frozen=True)
class Protocol:
    """Settings of a task.

    Attributes:
        task: name of the task, part of the key.
        decoding: how tokens are generated, part of the key; empty for tasks without generation.
        batch_tokens: number of tokens of a padded batch. It is not part of the key, because it
            changes no score.
    """

    task: ClassVar[str]
    decoding: ClassVar[str] = ""
    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        """Return the settings that are part of a measurement's key."""
        settings = {"task": self.task, **asdict(self)}
        del settings["batch_tokens"]
        return {**settings, "decoding": self.decoding} if self.decoding else settings

    def overridden(self, overrides: ProtocolOverrides) -> Self:
        """Return this protocol with the overrides of a data set that it has settings for."""
        names = {field.name for field in fields(self)}
        given = overrides.given.items()
        return replace(self, **{name: value for name, value in given if name in names})


@dataclass(frozen=True)
class TextProtocol(Protocol):
    """Predicts the tokens of texts.

    Attributes:
        context: number of tokens of a window, at most the model's context; None means
            :data:`WINDOW`.
        stride: number of tokens between the starts of windows; None means the context.
        tail: whether to ``keep`` or ``drop`` a last window that is shorter than the context.
        chat: whether a prompt is sent as a user's turn through the model's chat template.
    """

    task = "text"
    context: int | None = None
    stride: int | None = None
    tail: str = KEEP
    chat: bool = False


@dataclass(frozen=True)
class GenerationProtocol(Protocol):
    """Answers prompts by greedy generation.

    Attributes:
        max_new_tokens: largest number of tokens of an answer.
        stop: text that ends an answer and is not part of it; if it is empty, the model ends the
            answer.
        extract: pattern of the part of an answer that is compared; see
            :func:`evals.data.tables.extracted`.
        chat: whether a prompt is sent as a user's turn through the model's chat template.
    """

    task = "generation"
    decoding = "greedy"
    max_new_tokens: int = 24
    stop: str = STOP
    extract: str = ""
    chat: bool = False


@dataclass(frozen=True)
class ContinuationProtocol(Protocol):
    """Continues prompts by greedy generation, for comparison with the baseline's continuations.

    Attributes:
        max_new_tokens: largest number of tokens of a continuation. A data set's override, which is
            meant for answers, does not change it.
        chat: whether a prompt is sent as a user's turn through the model's chat template.
    """

    task = "continuation"
    decoding = "greedy"
    max_new_tokens: int = 64
    chat: bool = False

    def overridden(self, overrides: ProtocolOverrides) -> Self:
        return super().overridden(replace(overrides, max_new_tokens=None))


@dataclass(frozen=True)
class ClassProtocol(Protocol):
    """Classifies texts."""

    task = "classes"


@dataclass(frozen=True)
class ExtractionProtocol(Protocol):
    """Answers questions with spans of their context.

    Attributes:
        length: largest number of tokens of a window, including the question.
        stride: number of tokens by which the windows of a long context overlap.
        longest: largest number of tokens of an answer.
    """

    task = "extraction"
    length: int = 384
    stride: int = 128
    longest: int = 30


FORWARD, DECODE, MEMORY = "forward", "decode", "memory"
"""Workloads of gates on efficiency: a forward pass (of a causal model, the prefill), the generation
of further tokens, and the memory of a forward pass."""


@dataclass(frozen=True)
class SpeedProtocol:
    """Times forward passes of a baseline and a candidate in turn.

    Attributes:
        looks: numbers of timed pairs after which timing may stop.
        budget: number of seconds after which timing stops.
        warmup: number of pairs that are run before timing starts.
        batch_tokens: number of tokens of the timed batch.
        single: number of pairs in which a batch of one row is timed as well.
    """

    task: ClassVar[str] = "speed"
    workload: ClassVar[str] = FORWARD
    looks: tuple[int, ...] = LOOKS
    budget: float = 60.0
    warmup: int = 1
    batch_tokens: int = 1024
    single: int = 9

    def describe(self) -> dict[str, object]:
        """Return the settings that are part of a measurement's key."""
        return {"task": self.task, "timed": self.workload, **asdict(self)}


@dataclass(frozen=True)
class DecodeProtocol(SpeedProtocol):
    """Times the generation of tokens after a prompt, one token at a time with a cache.

    Attributes:
        steps: number of generated tokens.
        rows: number of prompts of the batch that is timed in addition to a single prompt.
    """

    task: ClassVar[str] = "decode"
    workload: ClassVar[str] = DECODE
    budget: float = 20.0
    batch_tokens: int = 512
    steps: int = 16
    rows: int = 8


SPEED_PROTOCOLS: dict[str, type[SpeedProtocol]] = {FORWARD: SpeedProtocol, DECODE: DecodeProtocol}
"""The protocol of each workload that is timed."""
