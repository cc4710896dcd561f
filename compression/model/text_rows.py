"""Validate rows of texts and labels given from Python.

This module does not import torch.
"""

import operator
from collections.abc import Iterable, Mapping

from compression_gates.compression.errors import CompressionError

Row = str | Mapping[str, object] | tuple[str, object]
"""A text, a mapping with ``text`` and optionally ``label``, or a text and its label."""
_FORMS = 'a text, {"text": ..., "label": ...} or (text, label)'


def read_rows(
    rows: Iterable[Row], name: str, named: bool = False
) -> tuple[list[str], list[int | str] | None]:
    """Return the texts of rows, and their labels or None.

    Args:
        rows: the rows, read once.
        name: name of the argument, for messages.
        named: whether a label can also be the name of a class.

    Raises:
        CompressionError: a row is invalid, there are no rows, or only some rows have a label.
    """
    if isinstance(rows, str | bytes | bytearray | Mapping) or not isinstance(rows, Iterable):
        raise CompressionError(
            f"{name}: {type(rows).__name__} is not a list of rows; each row is {_FORMS}"
        )
    pairs = [read_row(row, f"{name}: row {number}", named) for number, row in enumerate(rows, 1)]
    if not pairs:
        raise CompressionError(f"{name}: no rows; give at least one")
    texts, labels = [text for text, _ in pairs], [label for _, label in pairs]
    unlabelled = [number for number, label in enumerate(labels, 1) if label is None]
    if unlabelled and len(unlabelled) < len(labels):
        raise CompressionError(
            f"{name}: row {unlabelled[0]} has no label, but others do; label all rows or none"
        )
    return texts, None if unlabelled else labels


def read_row(row: object, where: str, named: bool) -> tuple[str, int | str | None]:
    """Return the text and the label of a row; see :func:`read_rows`."""
    if isinstance(row, str):
        text, label = row, None
    elif isinstance(row, Mapping) and "text" in row:
        text, label = row["text"], row.get("label")
    elif isinstance(row, tuple | list) and len(row) == 2:
        text, label = row
    else:
        raise CompressionError(f"{where} is {_short(row)}; give {_FORMS}")
    if not isinstance(text, str) or not text.strip():
        raise CompressionError(f"{where}: {_short(text)} is not a text, or is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CompressionError(f"{where}: the text contains an unpaired surrogate") from None
    return text, _label(label, where, named)


def _label(label: object, where: str, named: bool) -> int | str | None:
    if label is None or (named and isinstance(label, str)):
        return label
    try:
        number = operator.index(label)
    except TypeError:
        number = None
    if number is None or isinstance(label, bool):
        raise CompressionError(f"{where}: label {_short(label)} is not an integer")
    return number


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
