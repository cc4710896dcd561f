"""Read calibration or training texts, and their labels, from a file.

This module does not import torch.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.text_rows import read_row

_UNSUPPORTED = (".arrow", ".feather", ".gz", ".htm", ".html", ".ipynb", ".pdf", ".pkl", ".toml",
                ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip", ".zst")  # fmt: skip
"""Extensions of formats that are neither plain text nor supported tables."""
SUPPORTED = ".jsonl, .json, .csv, .tsv, .parquet or plain text"
_MAX_CELL_LENGTH = 1 << 30


def read_texts(path: Path, option: str = "--data") -> tuple[list[str], list[int] | None]:
    """Return the texts of a file, and their labels if every text has one.

    ``.jsonl``: one ``{"text", "label"}`` object per line; ``.json``: a list of such objects;
    ``.csv``, ``.tsv`` and ``.parquet``: columns ``text`` and optionally ``label``; any other file:
    one text per line.

    Raises:
        CompressionError: the file cannot be read; the message names the line or row.
    """
    kind = path.suffix.lower()
    if kind in _UNSUPPORTED:
        raise CompressionError(f"{option} {path}: {kind} is not supported; give {SUPPORTED}")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise CompressionError(f"{option} {path}: not a regular file; give a regular file")
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
        raise CompressionError(f"{option} {path}: invalid {kind[1:]}: {reason}") from error
    if not texts:
        raise CompressionError(f"{option} {path}: contains no text")
    return texts, labels


def _lines(path: Path) -> list[str]:
    # splitlines also splits at Unicode line separators, which JSON strings can contain.
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    return [line.rstrip("\r") for line in lines]


Rows = Iterator[tuple[str, object]]
"""Location of each row, for messages, and the row."""


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
        yield from _json_lines(path)  # JSON lines often have this extension
        return
    for number, row in enumerate(json.loads(text), 1):
        yield f"element {number}", row


def _csv(path: Path) -> Rows:
    csv.field_size_limit(_MAX_CELL_LENGTH)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.DictReader(stream, delimiter=delimiter, strict=True)
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"line {rows.line_num} and the header differ in length")
            yield f"line {rows.line_num}", {**row, "label": _number(row.get("label"))}


def _number(label: str | None) -> object:
    """Convert a label to an integer if it is one, and an empty cell to None."""
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
    """Return the texts and labels of rows.

    Raises:
        CompressionError: a row has no text, or its label is not an integer.
    """
    pairs = []
    for place, row in rows:
        if not isinstance(row, dict) or "text" not in row:
            columns = f"; it has {', '.join(map(str, row))}" if isinstance(row, dict) else ""
            raise CompressionError(
                f'{where}: {place} is not {{"text": "...", "label": integer}}{columns}'
            )
        pairs.append(read_row(row, f"{where}: {place}", named=False))
    labels = [label for _, label in pairs]
    return [text for text, _ in pairs], None if None in labels else labels
