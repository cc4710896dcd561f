"""Shapes of data: which columns a table needs to be texts, questions, prompts and so on, and how a
row of each shape becomes an item.

A shape is added by an entry in :data:`SHAPES`; :data:`evals.tasks.TASKS` lists the tasks that can
use it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compression_gates.evals.data.items import Item, Labelled, Prompt, Text
from compression_gates.evals.errors import EvalError

if TYPE_CHECKING:
    from compression_gates.evals.data.tables import RowReader

LABELLED, TEXT, QUESTION, SUMMARY, PROMPT = "labelled", "text", "question", "summary", "prompt"
BARE = "bare prompt"
"""Prompts without a response, to be continued."""
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "review", "content"),
    "label": ("label", "labels"),
    "question": ("question",),
    "answers": ("answers", "answer"),
    "context": ("context", "passage"),
    "document": ("document", "article", "dialogue"),
    "summary": ("summary", "highlights"),
    "prompt": ("prompt", "instruction"),
    "response": ("response", "output", "completion"),
    "cluster": ("cluster", "document_id", "doc_id"),
}
"""The names, in lower case, by which the column of each role is recognised; the first one present
is used."""
_GENERATION = ("prompt", "chat", "shots", "max_new_tokens", "stop", "extract")


@dataclass(frozen=True)
class Shape:
    """A kind of rows.

    Attributes:
        columns: roles of the columns that a table of this shape must have.
        item: makes an item of a row, given a reader, the row's number, the row, and the index of
            its document.
        optional: further roles that are recognised, each with its column names.
        expected: the role of the column that holds the right answers; empty where there is none.
        prompts: templates of a prompt with roles in braces; the first whose roles all have text in
            a row is used. Empty where an item is no prompt.
        settings: settings of a data set that do not apply to every shape and apply to this one.
    """

    columns: tuple[str, ...]
    item: "Callable[[RowReader, int, Mapping, int], Item]"
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    expected: str = ""
    prompts: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


def _labelled(reader: "RowReader", number: int, row: Mapping, document: int) -> Item:
    return Labelled(reader.text(number, row, "text"), reader.label(number, row), document)


def _text(reader: "RowReader", number: int, row: Mapping, document: int) -> Item:
    return Text(reader.text(number, row, "text"), document)


def _answered(reader: "RowReader", number: int, row: Mapping, document: int) -> Item:
    expected, *accepted = reader.answers(number, row)
    return Prompt(reader.prompt_after_shots(number, row), expected, document, tuple(accepted))


def _bare(reader: "RowReader", number: int, row: Mapping, document: int) -> Item:
    return Prompt(reader.prompt_after_shots(number, row), "", document)


SHAPES: dict[str, Shape] = {
    LABELLED: Shape(("text", "label"), _labelled, expected="label", settings=("classes",)),
    QUESTION: Shape(
        ("question", "answers"),
        _answered,
        {"context": COLUMN_NAMES["context"]},
        "answers",
        ("{context}\n\nQuestion: {question}\nAnswer:", "Question: {question}\nAnswer:"),
        _GENERATION,
    ),
    SUMMARY: Shape(
        ("document", "summary"),
        _answered,
        expected="summary",
        prompts=("{document}\n\nSummary:",),
        settings=_GENERATION,
    ),
    PROMPT: Shape(
        ("prompt", "response"),
        _answered,
        {"context": ("input", *COLUMN_NAMES["context"])},
        "response",
        ("{prompt}",),
        _GENERATION,
    ),
    TEXT: Shape(("text",), _text, settings=("join", "context", "stride", "tail")),
    BARE: Shape(("prompt",), _bare, prompts=("{prompt}",), settings=("prompt", "chat")),
}
"""All shapes. A table has the first one whose columns it has."""


def column_roles() -> dict[str, tuple[str, ...]]:
    """The roles that a column can have, each with the names by which it is recognised."""
    roles = dict(COLUMN_NAMES)
    for shape in SHAPES.values():
        for role in shape.columns:
            roles.setdefault(role, (role,))
        for role, names in shape.optional.items():
            roles.setdefault(role, names)
    return roles


def shape_of(roles: Iterable[str]) -> str:
    """The shape of a table that has columns for ``roles``.

    Raises:
        EvalError: no shape has these columns.
    """
    roles = list(roles)
    for name, shape in SHAPES.items():
        if set(shape.columns) <= set(roles):
            return name
    ways = "; ".join(" and ".join(shape.columns) for shape in SHAPES.values())
    raise EvalError(f"columns {', '.join(roles) or 'none'} make no data set; give {ways}")


def shapes_with(setting: str) -> list[str]:
    """The shapes that a setting applies to; all of them if it is not limited to some."""
    return [name for name, shape in SHAPES.items() if setting in shape.settings] or list(SHAPES)


def recognised(
    names: Iterable[str], shapes: Iterable[str] | None = None
) -> tuple[str, dict[str, str]] | None:
    """Recognise the shape of a table by the names of its columns.

    Args:
        names: of the columns.
        shapes: those considered; all by default.

    Returns:
        The shape, and the column of each role; None if the columns make none of the shapes.

    >>> recognised(["id", "Article", "highlights"])
    ('summary', {'document': 'Article', 'summary': 'highlights'})
    """
    columns = {str(name).lower(): str(name) for name in reversed(list(names))}
    considered = None if shapes is None else set(shapes)
    known = column_roles()

    def column(candidates: Iterable[str]) -> str | None:
        return next((columns[name] for name in candidates if name in columns), None)

    for name, shape in SHAPES.items():
        if considered is not None and name not in considered:
            continue
        needed = {role: column(known[role]) for role in shape.columns}
        if all(needed.values()):
            optional = {**shape.optional, "cluster": COLUMN_NAMES["cluster"]}
            others = {role: column(candidates) for role, candidates in optional.items()}
            return name, {role: found for role, found in {**needed, **others}.items() if found}
    return None


def columns_of(
    where: str, names: Iterable[str], shapes: Iterable[str] | None = None
) -> tuple[str, dict[str, str]]:
    """As :func:`recognised`, with an error in place of None.

    Raises:
        EvalError: starts with ``where`` and lists the columns present and those looked for.
    """
    names = list(names)
    considered = list(SHAPES) if shapes is None else [name for name in SHAPES if name in shapes]
    found = recognised(names, considered)
    if found is None:
        known = column_roles()
        ways = "; or ".join(
            " and ".join("/".join(known[role]) for role in SHAPES[shape].columns)
            for shape in considered
        )
        raise EvalError(f"{where}: the columns are {', '.join(map(str, names))}; expected {ways}")
    return found
