"""Rows of a table, from a local file or folder, or from the hub through ``datasets``."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from compression_gates.evals.data.paths import expanded, is_stream
from compression_gates.evals.errors import EvalError, kind_and_line
from compression_gates.evals.guard import guarded

_MAX_CELL_CHARACTERS = 1 << 30
Row = Mapping[str, object]
TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
FILES = (*TABLES, ".txt")
"""Suffixes of files with rows."""


@dataclass(frozen=True)
class Place:
    """Where rows come from: ``path`` or ``hub``.

    Attributes:
        path: a file (JSON lines, a JSON list, SQuAD's JSON, CSV or TSV with a header, Parquet, or
            text with one row per line), or a folder that ``datasets`` wrote with ``save_to_disk``.
        hub: name of a data set on the hub, optionally followed by ``@REVISION``.
        config: configuration of the data set on the hub.
        files: files of the repository on the hub, in place of a configuration.
        split: split of the data set on the hub, or of a folder with several splits.
    """

    path: str = ""
    hub: str = ""
    config: str = ""
    files: str = ""
    split: str = "test"

    def __str__(self) -> str:
        if self.path:
            return self.path
        return " ".join(word for word in (self.hub, self.config or self.files, self.split) if word)


def read_rows(place: Place, most: int | None = None) -> list[Row]:
    """Return the rows of a place in their order, at most ``most`` of them.

    Raises:
        EvalError: a file is missing or damaged, the hub is not available, or there is no row.
    """
    rows = list(islice(rows_of(place), most))
    if not rows:
        raise EvalError(f"{place}: has no rows")
    return rows


def rows_of(place: Place) -> Iterator[Row]:
    """Yield the rows of a place, and raise an EvalError where a row cannot be read."""
    try:
        yield from _local(place) if place.path else _from_hub(place)
    except OSError as error:
        raise EvalError(f"{place}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise EvalError(f"{place}: not UTF-8 at byte {error.start}") from error


def _local(place: Place) -> Iterator[Row]:
    path = expanded(place.path)
    if is_stream(path):
        raise EvalError(f"{place.path}: not a regular file; write its content to one first")
    if path.is_dir():
        return _saved(path, place.split)
    if not path.exists():
        raise EvalError(f"{place.path}: no such file or folder")
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _csv,
               ".parquet": _parquet}  # fmt: skip
    if path.suffix.lower() not in FILES:
        raise EvalError(f"{path}: rows come from {', '.join(FILES)} or a saved folder")
    return readers.get(path.suffix.lower(), _lines)(path)


def _lines(path: Path) -> Iterator[Row]:
    # Lines end with a line feed only, because a text can contain other separators.
    with path.open(encoding="utf-8-sig", newline="\n") as stream:
        for line in stream:
            yield {"text": line.rstrip("\r\n")}


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield json_row(path, f"line {number}", line)


def _json(path: Path) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not text.lstrip().startswith("["):
            yield from _json_lines(path)  # JSON lines are often named .json
            return
        raise EvalError(f"{path}: not JSON: {error}") from error
    if isinstance(rows, dict):
        rows = rows["data"] if isinstance(rows.get("data"), list) else [rows]
    if not isinstance(rows, list):
        raise EvalError(f"{path}: neither a JSON list of rows nor an object")
    if any(isinstance(row, dict) and "paragraphs" in row for row in rows):
        yield from _squad(path, rows)
        return
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise EvalError(f"{path}: element {number} is not a JSON object")
        yield row


def _squad(path: Path, articles: list) -> Iterator[Row]:
    """Yield the questions of SQuAD's JSON: articles, their paragraphs, and their questions."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield {
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": {"text": [a["text"] for a in question.get("answers") or []]},
                    }
    except (TypeError, KeyError, AttributeError) as error:
        raise EvalError(
            f"{path}: not in the format of SQuAD ({type(error).__name__}: {error})"
        ) from error


def json_row(path: Path, where: str, line: str) -> Row:
    """Return the row in a line of JSON.

    Args:
        path, where: the file and the line, for errors.
        line: the text.

    Raises:
        EvalError: the text is not a JSON object.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvalError(f"{path}: {where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise EvalError(f"{path}: {where} is not a JSON object")
    return row


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
        csv.field_size_limit(_MAX_CELL_CHARACTERS)
        try:
            names = reader.fieldnames or []
            if len(set(names)) < len(names):
                raise EvalError(f"{path}: two columns have the same name: {', '.join(names)}")
            for row in reader:
                if None in row or None in row.values():
                    raise EvalError(
                        f"{path}: line {reader.line_num} does not have as many cells as the header"
                    )
                yield row
        except csv.Error as error:
            raise EvalError(f"{path}: not CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as parquet

    with guarded(f"{path}: not Parquet"):  # damaged files raise errors of many types
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()


def _saved(path: Path, split: str) -> Iterator[Row]:
    datasets = _datasets(path)
    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged files raise errors of many types
        raise EvalError(
            f"{path}: not a folder that datasets saved ({type(error).__name__}: {error})"
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise EvalError(f"{path}: no split {split!r}; it has {', '.join(saved)}")
        saved = saved[split]
    with guarded(f"{path}: damaged"):
        yield from saved


def _from_hub(place: Place) -> Iterator[Row]:
    datasets = _datasets(place.hub)
    name, _, revision = place.hub.partition("@")
    files = {place.split: place.files} if place.files else None
    try:
        rows = datasets.load_dataset(
            name, place.config or None, split=place.split, revision=revision or None,
            data_files=files, streaming=bool(files),
        )  # fmt: skip
    except Exception as error:
        raise EvalError(
            f"{place}: not available from the hub ({kind_and_line(error)}); "
            "name a local copy of it instead"
        ) from error
    with guarded(f"{place}: reading from the hub failed"):
        yield from rows


def _datasets(label: object):
    try:
        import datasets
    except ImportError as error:
        raise EvalError(f"{label}: needs the package datasets: pip install datasets") from error
    datasets.utils.logging.set_verbosity_error()
    return datasets
