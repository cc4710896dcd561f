"""How each task is run. Part of a measurement's key, and importable without torch."""

from dataclasses import asdict, dataclass

STOP = "\n"
"""A continuation ends here."""


@dataclass(frozen=True)
class TextProtocol:
    """How text becomes predictions. Part of a measurement's key.

    Attributes:
        context: tokens of a window; None takes the model's own limit, at most 2048.
        stride: tokens between windows; None takes the context.
        batch_tokens: tokens of a padded batch.
    """

    context: int | None = None
    stride: int | None = None
    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        return {"task": "text", **asdict(self)}


@dataclass(frozen=True)
class GenerationProtocol:
    """How prompts become answers. Part of a measurement's key."""

    max_new_tokens: int = 24
    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        return {"task": "generation", "decoding": "greedy", "stop": STOP, **asdict(self)}


@dataclass(frozen=True)
class ClassProtocol:
    """How texts are classified. Part of a measurement's key."""

    batch_tokens: int = 4096

    def describe(self) -> dict[str, object]:
        return {"task": "classes", **asdict(self)}


@dataclass(frozen=True)
class SpeedProtocol:
    """What is timed. Part of a measurement's key."""

    pairs: int = 15
    warmup: int = 1
    batch_tokens: int = 1024

    def describe(self) -> dict[str, object]:
        return {"task": "speed", "timed": "forward", **asdict(self)}
