"""Data sets: items with their document, and a digest of all items."""

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
    """A document whose tokens are predicted, or a text that is classified without a label."""

    text: str
    document: int


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue, and the expected continuation.

    Attributes:
        prompt: the whole input of the model.
        expected: the expected continuation; empty if there is none.
        document: index of the document to which the item belongs.
        accepted: further correct answers.
    """

    prompt: str
    expected: str
    document: int
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A question whose answer is a span of its context.

    Attributes:
        question, context: the input of the model.
        expected: the answer; empty if the context does not contain one.
        document: index of the document to which the item belongs.
        accepted: further correct answers.
    """

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
"""Treatment of the last window of a text if it is shorter than the others."""
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
        """The settings that are replaced, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def updated(self, other: "ProtocolOverrides") -> "ProtocolOverrides":
        """Return these overrides with those of ``other``, which take precedence."""
        return replace(self, **other.given)


NO_OVERRIDES = ProtocolOverrides()


def input_text(item: Item) -> str:
    """Return the input of a model for an item."""
    if isinstance(item, Prompt):
        return item.prompt
    return f"{item.question}\n{item.context}" if isinstance(item, Question) else item.text


def whole_text(item: Item) -> str:
    """Return the input for an item with the expected continuation of a prompt."""
    return f"{item.prompt} {item.expected}\n" if isinstance(item, Prompt) else input_text(item)


@dataclass(frozen=True)
class DataSet:
    """Named items of one type.

    Attributes:
        name: name of the data set, in reports and errors.
        items: at least one item.
        overrides: protocol settings that the data set replaces.
        classes: names of the classes by label; empty if they have no names.
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
        """A hash of all items."""
        rows = [[type(item).__name__, *astuple(item)] for item in self.items]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @property
    def documents(self) -> Sequence[int]:
        """The document of each item."""
        return [item.document for item in self.items]


def text_file(path: str, by_line: bool, label: str = "text file") -> DataSet:
    """Read a plain text file.

    Args:
        path: path of a file in UTF-8.
        by_line: whether each line that is not blank is a document; otherwise the whole file is one.
        label: beginning of an error message.

    Raises:
        EvalError: the file does not exist, is not UTF-8, or has no text.
    """
    if is_stream(Path(path)):
        raise EvalError(f"{label} {path}: not a regular file; write its content to one first")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EvalError(f"{label} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise EvalError(f"{label} {path}: not UTF-8 at byte {error.start}") from error
    texts = [line for line in text.splitlines() if line.strip()] if by_line else [text]
    if not any(char.isprintable() and not char.isspace() for char in text):
        raise EvalError(f"{label} {path}: no text in it")
    items = tuple(Text(part, index) for index, part in enumerate(texts))
    return DataSet(Path(path).name, items)
