"""Writing of a report to a folder: tables, a page, JSON lines, and per-item values."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from compression_gates.evals.data.paths import make_writable_folder, replace_files
from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import in_markdown, valid_unicode
from compression_gates.evals.report.page import PAGE, render
from compression_gates.evals.report.report import Entry
from compression_gates.evals.report.report_rows import REPORT, parsed_rows, read_file, read_report
from compression_gates.evals.report.schema import schema_row
from compression_gates.evals.statistics.item_values import FILE, ItemValues, Key, digest_of, pack


def report_rows(
    entries: Iterable[Entry], more: Iterable[dict[str, object]] = ()
) -> list[dict[str, object]]:
    """Return one JSON object per verdict, and ``more``; NaN and infinity become null."""
    return [_plain(row) for row in (*map(asdict, entries), *more)]


def json_lines(rows: Iterable[dict[str, object]]) -> str:
    """Return one JSON object per line."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _plain(value):
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_writable(directory: Path) -> None:
    """Raise an EvalError before the run if the report cannot be written."""
    make_writable_folder(directory, "report folder")
    for name in ("report.md", REPORT, PAGE, FILE):
        if (directory / name).is_dir():
            raise EvalError(f"report folder {directory}: {name} is a folder; remove it")


def write_not_started(
    directory: Path, reason: str, keep: bool = False, ending: str = "start"
) -> None:
    """Write a report that says why a run did not start or finish, in place of an earlier one.

    Args:
        directory: of the report.
        reason: why the run did not start or finish.
        ending: ``start`` or ``finish``.
        keep: whether to keep the verdicts of the earlier report, and nothing else of it, for the
            next comparison.

    Raises:
        OSError: the directory cannot be written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    reason = valid_unicode(reason)
    text = "\n".join(map(in_markdown, reason.split("\n")))
    rows = [schema_row(), {"error": f"the run did not {ending}: {reason}"}]
    contents = {
        directory / "report.md": f"The run did not {ending}: {text}\n".encode(),
        directory / PAGE: render(rows).encode(),
    }
    if keep and (directory / REPORT).exists():
        replace_files(contents)
        _keep_verdicts(directory, rows)
        return
    replace_files(contents | {directory / REPORT: json_lines(rows).encode()})
    (directory / FILE).unlink(missing_ok=True)


def _keep_verdicts(directory: Path, rows: Sequence[dict[str, object]]) -> None:
    """Replace all rows of a report but its verdicts, so that its decision is not taken for that of
    the run that did not finish.

    The per-item values of the verdicts are kept. Damaged files are left as they are.
    """
    *first, error = rows
    error = {"error": f"{error['error']}; the verdicts are those of the earlier report"}
    with suppress(EvalError):
        before = read_file(directory / REPORT, "report")
        lines = zip(before.splitlines(), parsed_rows(before, "report"), strict=True)
        verdicts = [line + b"\n" for line, row in lines if row.get("verdict") is not None]
        content = b"".join([json_lines([*first, error]).encode(), *verdicts])
        replaced = {directory / REPORT: content}
        with suppress(EvalError):
            items = read_report(directory).items
            replaced |= {directory / FILE: pack(items, digest_of(content))} if items else {}
        replace_files(replaced)


def write(
    directory: Path,
    entries: Sequence[Entry],
    text: str,
    rows: Iterable[dict[str, object]] = (),
    items: Mapping[Key, ItemValues] | None = None,
) -> None:
    """Write ``report.md``, ``report.html``, ``report.jsonl`` and the per-item values for a later
    comparison.

    Args:
        directory: of the report.
        entries: the verdicts.
        text: the report as Markdown.
        rows: further JSON objects, such as the decision.
        items: per-item values by candidate and metric.

    Raises:
        EvalError: the directory cannot be written to.
    """
    written_rows = [schema_row(), *report_rows(entries, rows)]
    verdicts = json_lines(written_rows).encode()
    contents = {
        directory / "report.md": text.encode(),
        directory / PAGE: render(written_rows, items).encode(),
        directory / REPORT: verdicts,
        directory / FILE: pack(items or {}, digest_of(verdicts)),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace_files(contents)
    except OSError as error:
        raise EvalError(f"report folder {directory}: {error.strerror}") from error
