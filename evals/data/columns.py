"""What the columns of a table are, by their names. Pure."""

from collections.abc import Iterable, Mapping

from compression_gates.evals.data.tables import (
    BARE,
    LABELLED,
    PROMPT,
    QUESTION,
    SHAPES,
    SUMMARY,
    TEXT,
)
from compression_gates.evals.errors import EvalError

NAMES: Mapping[str, tuple[str, ...]] = {
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
"""The names under which each role is found, whatever their case; the first that is there counts."""
ORDER = (LABELLED, QUESTION, SUMMARY, PROMPT, TEXT, BARE)
"""Shapes in the order in which they are looked for."""
_MAY = {QUESTION: {"context": NAMES["context"]}, PROMPT: {"context": ("input", *NAMES["context"])}}
"""Roles that a shape may have besides."""


def recognised(
    names: Iterable[str], shapes: Iterable[str] = ORDER
) -> tuple[str, dict[str, str]] | None:
    """The shape that columns make and the column of each of its roles; None where they make none.

    Args:
        names: of the columns.
        shapes: that are looked for, of :data:`ORDER`.

    >>> recognised(["id", "Article", "highlights"])
    ('summary', {'document': 'Article', 'summary': 'highlights'})
    """
    columns = {str(name).lower(): str(name) for name in reversed(list(names))}

    def under(known: Iterable[str]) -> str | None:
        return next((columns[name] for name in known if name in columns), None)

    for shape in (shape for shape in ORDER if shape in shapes):
        found = {role: under(NAMES[role]) for role in SHAPES[shape]}
        if all(found.values()):
            may = {**_MAY.get(shape, {}), "cluster": NAMES["cluster"]}
            more = {role: under(known) for role, known in may.items()}
            return shape, {role: column for role, column in {**found, **more}.items() if column}
    return None


def columns_of(
    where: str, names: Iterable[str], shapes: Iterable[str] = ORDER
) -> tuple[str, dict[str, str]]:
    """As :func:`recognised`.

    Raises:
        EvalError: begins with ``where`` and tells the columns there are and those looked for.
    """
    names, shapes = list(names), [shape for shape in ORDER if shape in shapes]
    found = recognised(names, shapes)
    if found is None:
        ways = "; or ".join(
            " and ".join("/".join(NAMES[role]) for role in SHAPES[shape]) for shape in shapes
        )
        raise EvalError(
            f"{where}: there are columns {', '.join(map(str, names))}; looked for {ways}"
        )
    return found
