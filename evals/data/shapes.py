"""Shapes of data: the columns that texts, questions, prompts and so on need, and the items that
their rows become.

To add a shape, add an entry to :data:`SHAPES` and to the tasks in :data:`evals.tasks.TASKS` that
score it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compression_gates.evals.data.items import Item, Labelled, Prompt, Text
from compression_gates.evals.errors import EvalError

if TYPE_CHECKING:
    from compression_gates.evals.data.tables import RowReader, Table

LABELLED, TEXT, QUESTION, SUMMARY, PROMPT = "labelled", "text", "question", "summary", "prompt"
BARE = "bare prompt"
"""Prompts without an expected response, which are only continued."""
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
"""The names, in lower case, by which the column of each role is recognised, in order of
precedence."""
_GENERATION_SETTINGS = ("prompt", "chat", "shots", "max_new_tokens", "stop", "extract")


@dataclass(frozen=True)
class Shape:
    """The columns of a table, and the items that its rows become.

    Attributes:
        columns: roles of the columns that a table of this shape must have. A role that is not in
            :data:`COLUMN_NAMES` is the name of its column.
        item: function that makes an item, called with a :class:`evals.data.tables.RowReader`, the
            number of the row, the row, and the index of its document.
        optional: further roles that are recognised, each with its column names.
        expected: role of the column with the correct answers; empty if there is none.
        prompts: default templates of a prompt, with roles in braces; the first one whose roles all
            have text in a row is used. Empty if the items are not prompts.
        settings: settings of a data set that apply to this shape and not to every shape.
        keeps_symbols: whether answers of a table are compared with their symbols, not in SQuAD's
            normal form.
    """

    columns: tuple[str, ...]
    item: "Callable[[RowReader, int, Mapping, int], Item]"
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    expected: str = ""
    prompts: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    keeps_symbols: "Callable[[Table], bool]" = lambda table: False


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
        _GENERATION_SETTINGS,
        lambda table: "context" not in table.columns or bool(table.extract),
    ),
    SUMMARY: Shape(
        ("document", "summary"),
        _answered,
        expected="summary",
        prompts=("{document}\n\nSummary:",),
        settings=_GENERATION_SETTINGS,
    ),
    PROMPT: Shape(
        ("prompt", "response"),
        _answered,
        {"context": ("input", *COLUMN_NAMES["context"])},
        "response",
        ("{prompt}",),
        _GENERATION_SETTINGS,
        lambda table: True,
    ),
    TEXT: Shape(("text",), _text, settings=("join", "context", "stride", "tail")),
    BARE: Shape(("prompt",), _bare, prompts=("{prompt}",), settings=("prompt", "chat")),
}
"""All shapes, by name. A table has the shape with the most columns that it has; of several, the
first."""


def column_roles() -> dict[str, tuple[str, ...]]:
    """Return the roles that a column can have, each with the names by which it is recognised."""
    roles = dict(COLUMN_NAMES)
    for shape in SHAPES.values():
        for role in shape.columns:
            roles.setdefault(role, (role,))
        for role, names in shape.optional.items():
            roles.setdefault(role, names)
    return roles


def shape_of(roles: Iterable[str]) -> str:
    """Return the shape of a table that has columns for ``roles``.

    Raises:
        EvalError: no shape has these columns.
    """
    roles = list(roles)
    for name in _considered(None):
        if set(SHAPES[name].columns) <= set(roles):
            return name
    expected = "; ".join(" and ".join(shape.columns) for shape in SHAPES.values())
    raise EvalError(f"columns {', '.join(roles) or 'none'} make no data set; give {expected}")


def shapes_with(setting: str) -> list[str]:
    """Return the shapes that a setting applies to: those that list it, or all if none does."""
    return [name for name, shape in SHAPES.items() if setting in shape.settings] or list(SHAPES)


def recognised(
    names: Iterable[str], shapes: Iterable[str] | None = None
) -> tuple[str, dict[str, str]] | None:
    """Recognise the shape of a table by the names of its columns, whatever their case.

    Args:
        names: names of the columns.
        shapes: the shapes that are considered; all by default.

    Returns:
        The shape, and the column of each role; None if no shape has these columns.

    >>> recognised(["id", "Article", "highlights"])
    ('summary', {'document': 'Article', 'summary': 'highlights'})
    """
    columns = {str(name).lower(): str(name) for name in reversed(list(names))}
    column_names = column_roles()

    def column(candidates: Iterable[str]) -> str | None:
        return next((columns[name] for name in candidates if name in columns), None)

    for name in _considered(shapes):
        shape = SHAPES[name]
        required = {role: column(column_names[role]) for role in shape.columns}
        if all(required.values()):
            optional = {**shape.optional, "cluster": COLUMN_NAMES["cluster"]}
            others = {role: column(candidates) for role, candidates in optional.items()}
            return name, {role: found for role, found in {**required, **others}.items() if found}
    return None


def _considered(shapes: Iterable[str] | None) -> list[str]:
    """Return the names of the given shapes, or of all, those with the most columns first."""
    names = set(SHAPES if shapes is None else shapes)
    considered = [name for name in SHAPES if name in names]
    return sorted(considered, key=lambda name: -len(SHAPES[name].columns))


def columns_of(
    where: str, names: Iterable[str], shapes: Iterable[str] | None = None
) -> tuple[str, dict[str, str]]:
    """Return the shape and the columns that :func:`recognised` returns.

    Args:
        where: beginning of the error message.
        names, shapes: as for :func:`recognised`.

    Raises:
        EvalError: no shape has these columns; lists them and the expected ones.
    """
    names, considered = list(names), _considered(shapes)
    result = recognised(names, considered)
    if result is None:
        column_names = column_roles()
        expected = "; or ".join(
            " and ".join("/".join(column_names[role]) for role in SHAPES[shape].columns)
            for shape in considered
        )
        raise EvalError(
            f"{where}: the columns are {', '.join(map(str, names))}; expected {expected}"
        )
    return result
