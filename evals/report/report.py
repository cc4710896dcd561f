"""The report: one table for the terminal, the same as Markdown, and a line of JSON per verdict."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tabulate import tabulate

from compression_gates.evals.checkpoints.checkpoint import PLAIN
from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import fenced, in_markdown, valid_unicode
from compression_gates.evals.gates.gate import INCONCLUSIVE, NOT_JUDGED, Verdict
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.regressions import IN_MARKDOWN, Regression
from compression_gates.evals.report.layout import fitted
from compression_gates.evals.statistics.item_values import FILE, ItemValues, Key, digest_of, pack

BASELINE = "baseline"
MARKDOWN = "github"
"""The style of tables in Markdown, as tabulate calls it; any other is for a terminal."""
FAILED_MARK, KNOWN_MARK, UNSURE_MARK, UNRELIABLE_MARK = "✗", "(✗)", "≈", "?"


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
        regressions: the items that got worse, if the case did not pass, and
        regressions_omitted: how many more there are.
        origin: what it was measured on, as in :class:`evals.gates.earlier.Record`.
    """

    group: str
    row: str
    verdict: Verdict
    passed: bool
    reason: str = ""
    form: str = ""
    text: str = ""
    facts: dict[str, float] = field(default_factory=dict)
    regressions: tuple[Regression, ...] = ()
    regressions_omitted: int = 0
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        failed = "" if self.passed else KNOWN_MARK if self.reason else FAILED_MARK
        if self.verdict.outcome != INCONCLUSIVE:
            return failed
        return failed + (UNRELIABLE_MARK if self.verdict.unreliable else UNSURE_MARK)


def tables(
    entries: Sequence[Entry], style: str, intervals: bool = False, width: int | None = None
) -> str:
    """A table per baseline: its own numbers, then a row per candidate; a column per metric with
    its limit. With a ``width``, no line of it is longer."""
    parts = []
    for group in dict.fromkeys(entry.group for entry in entries):
        own = [entry for entry in entries if entry.group == group]
        metrics = [m for m in METRICS if any(_is_shown(e) for e in own if e.verdict.metric == m)]
        limits = {metric: _common_limit(own, metric) for metric in metrics}
        rows, zeros = [], {e.row: _zeros(e) for e in own if e.facts.get("weights")}
        levels = [_level(own, metric) for metric in metrics]
        if any(levels):
            rows.append([BASELINE, *levels, *([""] if zeros else [])])
        for row in dict.fromkeys(entry.row for entry in own):
            found = {entry.verdict.metric: entry for entry in own if entry.row == row}
            cells = [_cell(found.get(m), limits[m], intervals) for m in metrics]
            rows.append([row, *cells, *([zeros.get(row, "")] if zeros else [])])
        separator = "<br>" if style == MARKDOWN else "\n"
        heads = [
            f"{METRICS[m].title}{separator}{METRICS[m].show_limit(limits[m])}" for m in metrics
        ]
        heads += ["zeros"] if zeros else []
        if style != MARKDOWN:
            parts.append(fitted([group, *heads], rows, width or sys.maxsize))
            continue
        rows = [[in_markdown(cell) for cell in row] for row in rows]
        heads = [in_markdown(group), *heads]
        align = ["left"] + ["right"] * (len(heads) - 1)
        parts.append(tabulate(rows, heads, style, colalign=align, disable_numparse=True))
    return "\n\n".join(parts)


def _is_shown(entry: Entry) -> bool:
    """Whether a verdict alone gives its metric a column. What notes say has none: that nothing
    differs, and that there are no data for a metric."""
    verdict = entry.verdict
    is_always_judged = METRICS[verdict.metric].always_limit is not None
    return verdict.value != 0 if is_always_judged else not verdict.has_no_data


def legend(entries: Sequence[Entry], intervals: bool = False) -> list[str]:
    """A line for each mark that the tables of ``entries`` use."""
    shown = [entry for entry in entries if _is_shown(entry)]
    failed = [entry for entry in shown if not entry.passed and not entry.reason]
    marks = [
        (FAILED_MARK, failed, "failed"),
        (
            KNOWN_MARK,
            any(KNOWN_MARK in entry.mark for entry in shown),
            "known failure; the reason is in the profile",
        ),
        (
            UNSURE_MARK,
            any(UNSURE_MARK in entry.mark for entry in shown),
            f"inconclusive: the limit is inside the interval{_unproven(failed, UNSURE_MARK)}",
        ),
        (
            UNRELIABLE_MARK,
            any(UNRELIABLE_MARK in entry.mark for entry in shown),
            "inconclusive: the interval cannot be relied on, mostly for want of documents"
            f"{_unproven(failed, UNRELIABLE_MARK)}",
        ),
        (
            "(-a +b)",
            any(map(_counted, entries)),
            "a right answers became wrong, b wrong answers became right",
        ),
        ("[low high]", intervals and any(map(_has_interval, entries)), "the interval"),
    ]
    return [f"{mark:<12}{text}" for mark, used, text in marks if used]


def _unproven(failed: Iterable[Entry], mark: str) -> str:
    """What :data:`FAILED_MARK` in front of ``mark`` means, if any case has both."""
    found = [entry for entry in failed if mark in entry.mark]
    if not found:
        return ""
    met = any(entry.verdict.met for entry in found)
    proof = "not proven, which the strict policy requires"
    why = proof if met else "the point estimate breaks the limit"
    return f"; {FAILED_MARK}{mark}: {why}"


def _level(entries: Iterable[Entry], metric: str) -> str:
    """The baseline's own number, where it has one: nothing diverges from itself."""
    found = [e.verdict.baseline for e in entries if e.verdict.metric == metric]
    value = next((level for level in found if not math.isnan(level)), math.nan)
    unit = METRICS[metric].table_unit
    return "" if unit is None or math.isnan(value) else unit(value)


def _common_limit(entries: Iterable[Entry], metric: str) -> float:
    limits = [entry.verdict.limit for entry in entries if entry.verdict.metric == metric]
    return max(limits, key=limits.count)


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
    verdict, metric = entry.verdict, METRICS[entry.verdict.metric]
    if verdict.outcome == NOT_JUDGED:
        return f"{entry.mark} not judged".strip()
    if math.isnan(verdict.value):
        return f"{entry.mark} {'not a number' if verdict.n else 'error'}"
    text = metric.show(verdict.value, verdict.limit, bare=True)
    if _counted(entry):
        text += f" (-{entry.facts['worse']:.0f} +{entry.facts['better']:.0f})"
    if intervals and _has_interval(entry):
        ends = metric.show_interval(verdict.low, verdict.high, verdict.limit, bare=True, to=" ")
        text += f" [{ends}]"
    if verdict.limit != common:
        text += f" ({metric.show_limit(verdict.limit)})"
    return f"{entry.mark} {text}".strip()


def _counted(entry: Entry) -> bool:
    """Whether its cell says how many answers changed."""
    judged = entry.verdict.outcome != NOT_JUDGED and not math.isnan(entry.verdict.value)
    return judged and METRICS[entry.verdict.metric].shows_changes and "worse" in entry.facts


def _has_interval(entry: Entry) -> bool:
    return entry.verdict.low < entry.verdict.high


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


def not_judged(entries: Iterable[Entry]) -> list[str]:
    """What was not judged and why, each reason once."""
    found: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        if entry.verdict.outcome == NOT_JUDGED:
            rows = found.setdefault(entry.verdict.reason, {})
            rows.setdefault(METRICS[entry.verdict.metric].title, []).append(entry.row)
    return [
        "; ".join(f"{title} of {', '.join(dict.fromkeys(rows))}" for title, rows in metrics.items())
        + f": {reason}"
        for reason, metrics in found.items()
    ]


def markdown(
    entries: Sequence[Entry],
    lines: Sequence[str],
    more: str = "",
    intervals: bool = False,
    unjudged: str = "",
) -> str:
    """The whole report as Markdown: what is ``unjudged``, tables, ``more`` of them, notes, and the
    evidence of each failing case."""
    notes = [*legend(entries, intervals), *lines]
    parts = [
        f"# Gates: {in_markdown(unjudged)}" if unjudged else "# Gates",
        *filter(None, (tables(entries, MARKDOWN, intervals), more)),
        "\n".join(f"- {in_markdown(line)}" for line in notes),
    ]
    for title, known in (("Failed", False), ("Known failures", True)):
        chosen = [e for e in entries if not e.passed and bool(e.reason) == known]
        if chosen:
            parts.append(f"## {title}")
            parts += map(_evidence, chosen)
    return "\n\n".join(parts) + "\n"


def _evidence(entry: Entry) -> str:
    """What a failing case printed, and its worst items whole, folded."""
    verdict = entry.verdict
    parts = [f"### {in_markdown(verdict.candidate)}: {METRICS[verdict.metric].title}"]
    if entry.reason:
        parts.append(f"Known failure: {in_markdown(entry.reason)}")
    if entry.text:
        parts.append(fenced(entry.text))
    count = len(entry.regressions) + entry.regressions_omitted
    if count:
        shown = entry.regressions[:IN_MARKDOWN]
        which = "All" if len(shown) == count else f"The worst {len(shown)} of"
        parts += [
            f"<details><summary>{which} {count:,} items that got worse</summary>",
            *(item.markdown() for item in shown),
            "</details>",
        ]
    return "\n\n".join(parts)


def json_lines(entries: Iterable[Entry], more: Iterable[dict[str, object]] = ()) -> str:
    """A JSON object per verdict, and ``more``; numbers that JSON does not have (NaN, infinity)
    become null."""
    rows = [*map(asdict, entries), *more]
    return "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows)


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
    """Raises an EvalError now rather than after the run if a report cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("report.md", "report.jsonl", FILE):
            if (directory / name).is_dir():
                raise EvalError(f"report folder {directory}: {name} is a directory there")
        probe = directory / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EvalError(f"report folder {directory}: {error.strerror}") from error


def write_not_started(directory: Path, reason: str, keep: bool = False) -> None:
    """Replaces a report that may be there by one that says why a run did not start.

    Args:
        directory: of the report.
        reason: why.
        keep: whether the verdicts of the earlier report stay, because the next run is compared with
            them.

    Raises:
        OSError: the directory cannot be written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    reason = valid_unicode(reason)
    told = "\n".join(map(in_markdown, reason.split("\n")))
    (directory / "report.md").write_text(f"The run did not start: {told}\n", encoding="utf-8")
    if keep:
        return
    (directory / FILE).unlink(missing_ok=True)
    row = json.dumps({"error": f"the run did not start: {reason}"})
    (directory / "report.jsonl").write_text(f"{row}\n", encoding="utf-8")


def write(
    directory: Path,
    entries: Sequence[Entry],
    lines: Sequence[str],
    table: str = "",
    rows: Iterable[dict[str, object]] = (),
    intervals: bool = False,
    unjudged: str = "",
    items: Mapping[Key, ItemValues] | None = None,
) -> None:
    """Writes ``report.md``, which begins with what is ``unjudged``, and ``report.jsonl``, with a
    further table and its rows if any, and the values of ``items`` that a later run is compared
    with.

    Raises:
        EvalError: the directory cannot be written to.
    """
    verdicts = json_lines(entries, rows).encode()
    contents = {
        directory / "report.md": markdown(entries, lines, table, intervals, unjudged).encode(),
        directory / "report.jsonl": verdicts,
        directory / FILE: pack(items or {}, digest_of(verdicts)),
    }
    partial = {file: file.with_name(f"{file.name}.partial") for file in contents}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            partial[file].write_bytes(content)
        for file, written in partial.items():
            written.replace(file)
    except OSError as error:
        raise EvalError(f"report folder {directory}: {error.strerror}") from error
    finally:
        for written in partial.values():
            with suppress(OSError):
                written.unlink()
