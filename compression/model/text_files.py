"""Texts to calibrate or train on, and their labels, from a file.

Importable without torch. Rows of a table have a column ``text`` and maybe a column ``label``.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from compression_gates.compression.errors import CompressionError

_FORMATTED = (".arrow", ".feather", ".gz", ".htm", ".html", ".ipynb", ".pdf", ".pkl", ".toml",
              ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip", ".zst")  # fmt: skip
"""Endings of files whose lines are no texts, and which are not read as tables either."""
ENDINGS = ".jsonl, .json, .csv, .tsv, .parquet or plain text"
_LONGEST_CELL = 1 << 30


def read_texts(path: Path, option: str = "--data") -> tuple[list[str], list[int] | None]:
    """Texts of a file, and their labels if each has one.

    ``.jsonl`` holds one ``{"text", "label"}`` object per line, ``.json`` a list of them, ``.csv``,
    ``.tsv`` and ``.parquet`` a row for each with columns of these names; any other file one text
    per line.

    Raises:
        CompressionError: names the file and the line or row.
    """
    kind = path.suffix.lower()
    if kind in _FORMATTED:
        raise CompressionError(f"{option} {path}: cannot be read as texts; give {ENDINGS}")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise CompressionError(f"{option} {path}: not a regular file; write it to one first")
    try:
        if kind not in _READERS:
            texts, labels = [line for line in _lines(path) if line.strip()], None
        else:
            texts, labels = _columns(f"{option} {path}", _READERS[kind](path))
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise CompressionError(f"{option} {path}: {reason}") from error
    except UnicodeDecodeError as error:
        raise CompressionError(f"{option} {path}: not UTF-8 at byte {error.start}") from error
    except (ArithmeticError, csv.Error, LookupError, MemoryError, NotImplementedError,
            RecursionError, TypeError, ValueError) as error:  # fmt: skip
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CompressionError(f"{option} {path}: not {kind[1:]}: {reason}") from error
    if not texts:
        raise CompressionError(f"{option} {path}: no text in it")
    return texts, labels


def _lines(path: Path) -> list[str]:
    # Not at every character that Unicode calls a line's end: JSON may hold them.
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    return [line.rstrip("\r") for line in lines]


Rows = Iterator[tuple[str, object]]
"""Where each row stands, and the row."""


def _json_lines(path: Path) -> Rows:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError):
                yield f"line {number}", None


def _json(path: Path) -> Rows:
    text = path.read_bytes().decode("utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _json_lines(path)  # often written under this name
        return
    for number, row in enumerate(json.loads(text), 1):
        yield f"element {number}", row


def _csv(path: Path) -> Rows:
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.DictReader(stream, delimiter=delimiter, strict=True)
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"line {rows.line_num} has not as many cells as the first")
            yield f"line {rows.line_num}", {**row, "label": _number(row.get("label"))}


def _number(label: str | None) -> object:
    """A label as a number where it is written as one; an empty cell is none."""
    if label is None or not label.strip():
        return None
    return int(label) if label.strip().isdecimal() else label


def _parquet(path: Path) -> Rows:
    import pyarrow.parquet as parquet

    number = 0
    for batch in parquet.ParquetFile(path).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


_READERS = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _columns(where: str, rows: Iterable[tuple[str, object]]) -> tuple[list[str], list[int] | None]:
    """Texts and labels of rows.

    Raises:
        CompressionError: a row without a text, or with a label that is no whole number.
    """
    texts: list[str] = []
    labels: list[int | None] = []
    for place, row in rows:
        try:
            text, label = row["text"], row.get("label")
            text.encode()  # no lone half of a surrogate pair
        except (ValueError, KeyError, TypeError, AttributeError):
            text, label = "", None
        if not text.strip() or not (label is None or type(label) is int):
            found = f"; it has {', '.join(map(str, row))}" if isinstance(row, dict) else ""
            raise CompressionError(
                f'{where}: {place} is not {{"text": "...", "label": number}}{found}'
            )
        texts.append(text)
        labels.append(label)
    return texts, None if None in labels else labels
