"""Rows of texts that are given from Python rather than in a file.

Importable without torch.
"""

import operator
from collections.abc import Iterable, Mapping

from compression_gates.compression.errors import CompressionError

Row = str | Mapping[str, object] | tuple[str, object]
"""A text, a mapping with ``text`` and maybe ``label``, or a text and its label."""
_FORMS = 'a text, {"text": ..., "label": ...} or (text, label)'


def read_rows(
    rows: Iterable[Row], name: str, named: bool = False
) -> tuple[list[str], list[int | str] | None]:
    """Texts of rows, and their labels if they have any.

    Args:
        rows: in order; read once.
        name: of the argument, for messages.
        named: whether a label may also be the name of a class.

    Raises:
        CompressionError: names the row; or there are no rows, or only some have a label.
    """
    if isinstance(rows, str | bytes | bytearray | Mapping) or not isinstance(rows, Iterable):
        raise CompressionError(f"{name}: {type(rows).__name__} is no list of rows; give {_FORMS}")
    found = [read_row(row, f"{name}: row {number}", named) for number, row in enumerate(rows, 1)]
    if not found:
        raise CompressionError(f"{name}: no rows")
    texts, labels = [text for text, _ in found], [label for _, label in found]
    lacking = [number for number, label in enumerate(labels, 1) if label is None]
    if lacking and len(lacking) < len(labels):
        raise CompressionError(
            f"{name}: row {lacking[0]} has no label, and others have; give all a label, or none"
        )
    return texts, None if lacking else labels


def read_row(row: object, where: str, named: bool) -> tuple[str, int | str | None]:
    """The text and the label of a row, as :func:`read_rows`."""
    if isinstance(row, str):
        text, label = row, None
    elif isinstance(row, Mapping) and "text" in row:
        text, label = row["text"], row.get("label")
    elif isinstance(row, tuple | list) and len(row) == 2:
        text, label = row
    else:
        raise CompressionError(f"{where} is {_short(row)}; give {_FORMS}")
    if not isinstance(text, str) or not text.strip():
        raise CompressionError(f"{where}: {_short(text)} is no text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a lone half of a surrogate pair
        raise CompressionError(f"{where}: {error}") from None
    return text, _label(label, where, named)


def _label(label: object, where: str, named: bool) -> int | str | None:
    if label is None or (named and isinstance(label, str)):
        return label
    try:
        number = operator.index(label)
    except TypeError:
        number = None
    if number is None or isinstance(label, bool):
        raise CompressionError(f"{where}: label {_short(label)} is no whole number")
    return number


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
