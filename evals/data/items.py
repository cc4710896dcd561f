"""Data sets: items with their roles, the document that each belongs to, and a digest."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path

from compression_gates.evals.data.paths import is_stream
from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import on_one_line


@dataclass(frozen=True)
class Text:
    """A document to predict token by token. Without a label it may also be classified."""

    text: str
    document: int


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue, and what is expected of its continuation.

    ``accepted`` are further answers that are as right as the expected one.
    """

    prompt: str
    expected: str
    document: int
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A question whose answer is a piece of its context; without one the answer is empty."""

    question: str
    context: str
    expected: str
    document: int
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """A text and the index of its class."""

    text: str
    label: int
    document: int


Item = Text | Prompt | Question | Labelled
KEEP, DROP = "keep", "drop"
"""What happens to a last window of a text that is shorter than the others."""
SQUAD, SYMBOLS = "squad", "symbols"
"""Normal forms of answers; see :mod:`evals.metrics.normal_forms`."""


@dataclass(frozen=True)
class ProtocolOverrides:
    """Settings of scoring protocols that a data set replaces; None keeps the protocol's own.

    The attributes are those of the protocols in :mod:`evals.scoring.protocols`.
    """

    context: int | None = None
    stride: int | None = None
    tail: str | None = None
    max_new_tokens: int | None = None
    stop: str | None = None
    extract: str | None = None
    chat: bool | None = None

    @property
    def given(self) -> dict[str, object]:
        """The settings that are replaced."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def updated(self, other: "ProtocolOverrides") -> "ProtocolOverrides":
        """These overrides with those of ``other``, which take precedence."""
        return replace(self, **other.given)


NO_OVERRIDES = ProtocolOverrides()


def input_text(item: Item) -> str:
    """What a model is given of an item."""
    if isinstance(item, Prompt):
        return item.prompt
    return f"{item.question}\n{item.context}" if isinstance(item, Question) else item.text


def whole_text(item: Item) -> str:
    """An item with what is expected of a model, as it stood in a training text."""
    return f"{item.prompt} {item.expected}\n" if isinstance(item, Prompt) else input_text(item)


@dataclass(frozen=True)
class DataSet:
    """Named items of one type.

    Attributes:
        overrides: protocol settings that it replaces.
        classes: names of the classes that labels are indices of; empty where they have none.
        normal_form: the form in which answers are compared, :data:`SQUAD` or :data:`SYMBOLS`.

    Raises:
        EvalError: there is no item.
    """

    name: str
    items: tuple[Item, ...]
    overrides: ProtocolOverrides = NO_OVERRIDES
    classes: tuple[str, ...] = ()
    normal_form: str = SQUAD

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", on_one_line(self.name))
        if not self.items:
            raise EvalError(f"data set {self.name}: no item")

    @cached_property
    def digest(self) -> str:
        rows = [[type(item).__name__, *astuple(item)] for item in self.items]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @property
    def documents(self) -> Sequence[int]:
        return [item.document for item in self.items]


def text_file(path: str, by_line: bool, what: str = "text file") -> DataSet:
    """A plain text file as one document, or as a document a line that is not blank.

    ``what`` names the file in errors.

    Raises:
        EvalError: no such file, not UTF-8, or nothing but white space.
    """
    if is_stream(Path(path)):
        raise EvalError(f"{what} {path}: not a regular file; write it to one first")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EvalError(f"{what} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise EvalError(f"{what} {path}: not UTF-8 at byte {error.start}") from error
    texts = [line for line in text.splitlines() if line.strip()] if by_line else [text]
    if not any(char.isprintable() and not char.isspace() for char in text):
        raise EvalError(f"{what} {path}: no text in it")
    items = tuple(Text(part, index) for index, part in enumerate(texts))
    return DataSet(Path(path).name, items)
