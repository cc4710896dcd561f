"""The report: one table for the terminal, the same as Markdown, and a line of JSON per verdict."""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tabulate import tabulate

from evals.checkpoint import PLAIN
from evals.errors import EvalError
from evals.gate import INCONCLUSIVE, METRICS, NOT_JUDGED, Verdict

BASELINE = "baseline"
FAILED_MARK, UNSURE_MARK, KNOWN_MARK = "✗", "≈", "(✗)"
COUNTED = ("accuracy_drop", "exact_match_drop")
"""Metrics of right and wrong answers, whose changes the table counts."""
LEGEND = (
    f"{FAILED_MARK} failed   {KNOWN_MARK} known to fail, with a reason in the profile   "
    f"{UNSURE_MARK} inconclusive: the interval straddles the limit"
)


@dataclass(frozen=True)
class Entry:
    """A verdict, how its case ended, and what it printed.

    Attributes:
        group: the baseline, under which the table lists the candidate.
        row: the candidate's name in that table.
        passed: whether the case kept its promise under the policy of the run.
        reason: why it is known to fail, or empty.
        form: how the candidate's weights are stored; empty if it could not be measured.
        text: what the case printed if it failed.
        facts: further numbers of the metric.
    """

    group: str
    row: str
    verdict: Verdict
    passed: bool
    reason: str = ""
    form: str = ""
    text: str = ""
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        unsure = UNSURE_MARK if self.verdict.outcome == INCONCLUSIVE else ""
        if self.passed:
            return unsure
        return (KNOWN_MARK if self.reason else FAILED_MARK) + unsure


def tables(entries: Sequence[Entry], style: str, intervals: bool = False) -> str:
    """A table per baseline: its own numbers, then a row per candidate; a column per metric with
    its limit."""
    parts = []
    for group in dict.fromkeys(entry.group for entry in entries):
        own = [entry for entry in entries if entry.group == group]
        metrics = [m for m in METRICS if any(entry.verdict.metric == m for entry in own)]
        limits = {metric: _common_limit(own, metric) for metric in metrics}
        rows, zeros = [], {e.row: _zeros(e) for e in own if e.facts.get("weights")}
        levels = [_level(own, metric) for metric in metrics]
        if any(levels):
            rows.append([BASELINE, *levels, *([""] if zeros else [])])
        for row in dict.fromkeys(entry.row for entry in own):
            found = {entry.verdict.metric: entry for entry in own if entry.row == row}
            cells = [_cell(found.get(m), limits[m], intervals) for m in metrics]
            rows.append([row, *cells, *([zeros.get(row, "")] if zeros else [])])
        separator = "<br>" if style == "github" else "\n"
        heads = [f"{METRICS[m].title}{separator}{_limit(m, limits[m])}" for m in metrics]
        heads += ["zeros"] if zeros else []
        if style == "github":
            rows = [[_escaped(cell) for cell in row] for row in rows]
            group = _escaped(group)
        align = ["left"] + ["right"] * len(heads)
        parts.append(tabulate(rows, [group, *heads], style, colalign=align, disable_numparse=True))
    return "\n\n".join(parts)


def _level(entries: Iterable[Entry], metric: str) -> str:
    """The baseline's own number, where it has one: nothing diverges from itself."""
    found = [e.verdict.baseline for e in entries if e.verdict.metric == metric]
    value = next((level for level in found if not math.isnan(level)), 0.0)
    if not value:
        return ""
    if metric == "compression_ratio":
        return f"{value / 2**20:.2f} MiB"
    return METRICS[metric].show_side(value)


def _common_limit(entries: Iterable[Entry], metric: str) -> float:
    limits = [entry.verdict.limit for entry in entries if entry.verdict.metric == metric]
    return max(limits, key=limits.count)


def _limit(metric: str, limit: float) -> str:
    sign = "≤" if METRICS[metric].at_most else "≥"
    return f"{sign} {METRICS[metric].show(limit).lstrip('+')}"


def _zeros(entry: Entry) -> str:
    """Share of zeros among the weights, and the N:M pattern that all layers hold."""
    facts = entry.facts
    text = f"{facts['zeros'] / facts['weights']:.0%}"
    for pattern in ("2_4", "4_8"):
        if facts[f"layers_{pattern}"] == facts["layers"]:
            return f"{pattern.replace('_', ':')} {text}"
    return text


def _cell(entry: Entry | None, common: float, intervals: bool) -> str:
    if entry is None:
        return ""
    verdict = entry.verdict
    if verdict.outcome == NOT_JUDGED:
        return f"{entry.mark} not judged".strip()
    if math.isnan(verdict.value):
        return f"{entry.mark} {'not a number' if verdict.n else 'error'}"
    show = METRICS[verdict.metric].show
    text = _short(show(verdict.value))
    if not verdict.met and show(verdict.value) == show(verdict.limit):
        text = f"{verdict.value:.8g}"  # rounded, it would look as if it kept the limit
    if verdict.metric in COUNTED and "worse" in entry.facts:
        text += f" (-{entry.facts['worse']:.0f} +{entry.facts['better']:.0f})"
    if intervals and verdict.low < verdict.high:
        text += f" [{_short(show(verdict.low))} {_short(show(verdict.high))}]"
    if verdict.limit != common:
        text += f" ({_limit(verdict.metric, verdict.limit)})"
    return f"{entry.mark} {text}".strip()


def _short(text: str) -> str:
    """Without the unit, which stands in the head."""
    return text.replace(" nats", "").replace(" pt", "")


def forms(entries: Iterable[Entry]) -> str:
    """In which form candidates are stored; plain ones are not listed by name."""
    found = {(entry.group, entry.row): entry.form for entry in entries if entry.form}
    rows: dict[str, list[str]] = {}
    for (_, row), form in found.items():
        rows.setdefault(form, []).append(row)
    special = [
        f"{form}: {', '.join(dict.fromkeys(names))}"
        for form, names in rows.items()
        if form != PLAIN
    ]
    plain = ["plain: all others" if special else "plain"] if PLAIN in rows else []
    return "; ".join([*special, *plain])


def markdown(
    entries: Sequence[Entry],
    lines: Sequence[str],
    more: str = "",
    intervals: bool = False,
    unjudged: str = "",
) -> str:
    """The whole report as Markdown: what is ``unjudged``, tables, ``more`` of them, notes, and
    what each failing case printed."""
    parts = [
        f"# Gates: {_escaped(unjudged)}" if unjudged else "# Gates",
        *filter(None, (tables(entries, "github", intervals), more)),
        LEGEND,
        "\n".join(f"- {_escaped(line)}" for line in lines),
    ]
    for title, known in (("Failed", False), ("Known failures", True)):
        chosen = [e for e in entries if not e.passed and bool(e.reason) == known]
        if chosen:
            parts.append(f"## {title}")
            for entry in chosen:
                reason = f"{_escaped(entry.reason)}\n\n" if known else ""
                parts.append(f"{reason}```text\n{entry.text.replace('```', '` ` `')}\n```")
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def json_lines(entries: Iterable[Entry], more: Iterable[dict[str, object]] = ()) -> str:
    """A JSON object per verdict, and ``more``; numbers that JSON does not have (NaN, infinity)
    become null."""
    rows = [*map(asdict, entries), *more]
    return "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows)


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_writable(directory: Path) -> None:
    """Raises an EvalError now rather than after the run if a report cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("report.md", "report.jsonl"):
            if (directory / name).is_dir():
                raise EvalError(f"--report {directory}: {name} is a directory there")
        probe = directory / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EvalError(f"--report {directory}: {error.strerror}") from error


def write(
    directory: Path,
    entries: Sequence[Entry],
    lines: Sequence[str],
    table: str = "",
    rows: Iterable[dict[str, object]] = (),
    intervals: bool = False,
    unjudged: str = "",
) -> None:
    """Writes ``report.md`` and ``report.jsonl``, with a further table and its rows if any; the
    first begins with what is ``unjudged``.

    Raises:
        EvalError: the directory cannot be written to.
    """
    texts = {
        directory / "report.md": markdown(entries, lines, table, intervals, unjudged),
        directory / "report.jsonl": json_lines(entries, rows),
    }
    partial = {file: file.with_name(f"{file.name}.partial") for file in texts}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            partial[file].write_text(text, encoding="utf-8")
        for file, written in partial.items():
            written.replace(file)
    except OSError as error:
        raise EvalError(f"--report {directory}: {error.strerror}") from error
    finally:
        for written in partial.values():
            with suppress(OSError):
                written.unlink()
