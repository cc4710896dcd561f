"""The tables of a report, for the terminal and as Markdown."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from compression_gates.evals.checkpoints.checkpoint import PLAIN
from compression_gates.evals.foreign_text import fenced, in_markdown
from compression_gates.evals.gates.decision import Decision
from compression_gates.evals.gates.gate import INCONCLUSIVE, NOT_JUDGED, Verdict
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.regressions import IN_MARKDOWN, Regression
from compression_gates.evals.report.layout import fit_table
from compression_gates.evals.running import DENSE

BASELINE = "baseline"
MARKDOWN = "github"
"""tabulate's name of the Markdown style; any other style is for a terminal."""
FAILED_MARK, KNOWN_MARK, UNSURE_MARK, UNRELIABLE_MARK = "✗", "(✗)", "≈", "?"
UNEXPECTED_MARK, ADVISORY_MARK, GAIN_MARK = "!", "△", "↑"


@dataclass(frozen=True)
class Entry:
    """A verdict with the outcome and the message of its case.

    Attributes:
        group: the baseline, which has one table.
        row: the candidate's name in that table.
        verdict: on the gate.
        passed: whether the case passed under the policy of the run.
        reason: why the case is known to fail; empty if it is not.
        form: storage form of the candidate's weights; empty if it could not be measured.
        text: the message of a failed case.
        facts: further numbers of the metric.
        kernel: engine and kernels that computed the candidate, if the metric had to run it.
        evidence: further numbers of the metric in words.
        regressions: the items that got worse, if the case did not pass.
        regressions_omitted: number of further such items.
        origin: digests of what was measured, as in :class:`evals.gates.earlier.Record`.
        attribution: the modules that the difference comes from, as
            :meth:`evals.attribution.attribution.Attribution.as_dict` returns them; empty if they
            were not looked for.
        is_unexpected_pass: whether the case failed because a known failure passes.
        rerun: the command that runs the case again.
    """

    group: str
    row: str
    verdict: Verdict
    passed: bool
    reason: str = ""
    form: str = ""
    text: str = ""
    facts: dict[str, float] = field(default_factory=dict)
    kernel: str = ""
    evidence: tuple[str, ...] = ()
    regressions: tuple[Regression, ...] = ()
    regressions_omitted: int = 0
    origin: dict[str, str] = field(default_factory=dict)
    attribution: dict[str, object] = field(default_factory=dict)
    is_unexpected_pass: bool = False
    rerun: str = ""

    @property
    def tier(self) -> str:
        """The tier of the gate: :data:`evals.gates.gate.TIERS`."""
        return self.verdict.tier

    @property
    def mark(self) -> str:
        if self.is_unexpected_pass:
            return UNEXPECTED_MARK
        if self.verdict.is_implausible_gain:
            return GAIN_MARK
        failed = ADVISORY_MARK if self.verdict.breaks_advice else ""
        failed = failed if self.passed else KNOWN_MARK if self.reason else FAILED_MARK
        if self.verdict.outcome != INCONCLUSIVE:
            return failed
        return failed + (UNRELIABLE_MARK if self.verdict.unreliable else UNSURE_MARK)


def tables(
    entries: Sequence[Entry], style: str, intervals: bool = False, width: int | None = None
) -> str:
    """Return one table per baseline: its own values, then a row per candidate.

    Each metric has a column, with its limit in the heading. Lines are at most ``width`` characters
    long.
    """
    parts = []
    for group in dict.fromkeys(entry.group for entry in entries):
        members = [entry for entry in entries if entry.group == group]
        metrics = shown_metrics(members)
        limits = {metric: common_limit(members, metric) for metric in metrics}
        rows, zeros = [], {e.row: _zeros(e) for e in members if e.facts.get("weights")}
        levels = [baseline_level(members, metric) for metric in metrics]
        if any(levels):
            rows.append([BASELINE, *levels, *([""] if zeros else [])])
        for row in dict.fromkeys(entry.row for entry in members):
            by_metric = {entry.verdict.metric: entry for entry in members if entry.row == row}
            cells = [_cell(by_metric.get(m), limits[m], intervals) for m in metrics]
            rows.append([row, *cells, *([zeros.get(row, "")] if zeros else [])])
        separator = "<br>" if style == MARKDOWN else "\n"
        heads = [
            f"{METRICS[m].title}{separator}{METRICS[m].show_limit(limits[m])}" for m in metrics
        ]
        heads += ["zeros"] if zeros else []
        if style != MARKDOWN:
            parts.append(fit_table([group, *heads], rows, width or sys.maxsize))
            continue
        rows = [[in_markdown(cell) for cell in row] for row in rows]
        heads = [in_markdown(group), *heads]
        align = ["left"] + ["right"] * (len(heads) - 1)
        parts.append(tabulate(rows, heads, style, colalign=align, disable_numparse=True))
    return "\n\n".join(parts)


def shown_metrics(entries: Iterable[Entry]) -> list[str]:
    """Return the metrics that have a column, in the order of the columns."""
    shown = {entry.verdict.metric for entry in entries if _is_shown(entry)}
    return [metric for metric in METRICS if metric in shown]


def _is_shown(entry: Entry) -> bool:
    """Return whether a verdict gives its metric a column.

    It does not if a note replaces it: if the checkpoints do not differ, or there are no data.
    """
    verdict = entry.verdict
    is_always_judged = METRICS[verdict.metric].always_limit is not None
    return verdict.value != 0 if is_always_judged else not verdict.has_no_data


def legend(entries: Sequence[Entry], intervals: bool = False) -> list[str]:
    """Return a line for each mark that the tables of ``entries`` contain."""
    shown = [entry for entry in entries if _is_shown(entry)]
    failed = [entry for entry in shown if FAILED_MARK in entry.mark and not entry.reason]
    marks = [
        (FAILED_MARK, failed, "failed"),
        (
            KNOWN_MARK,
            any(KNOWN_MARK in entry.mark for entry in shown),
            "known failure; the reason is in the profile",
        ),
        (
            UNEXPECTED_MARK,
            any(entry.is_unexpected_pass for entry in shown),
            "passes, but is listed as a known failure",
        ),
        (
            UNSURE_MARK,
            any(UNSURE_MARK in entry.mark for entry in shown),
            f"inconclusive: the limit is inside the interval{_unproven(failed, UNSURE_MARK)}",
        ),
        (
            UNRELIABLE_MARK,
            any(UNRELIABLE_MARK in entry.mark for entry in shown),
            "inconclusive: the interval is unreliable, usually because there are too few documents"
            f"{_unproven(failed, UNRELIABLE_MARK)}",
        ),
        (
            ADVISORY_MARK,
            any(entry.passed and entry.verdict.breaks_advice for entry in shown),
            "breaks the limit of an advisory gate, which never fails",
        ),
        (
            GAIN_MARK,
            any(entry.verdict.is_implausible_gain for entry in shown),
            "implausible gain: improves by more than the loss that the limit allows",
        ),
        (
            "(-a +b)",
            any(map(_has_counts, entries)),
            "a right answers became wrong, b wrong answers became right",
        ),
        ("[low high]", intervals and any(map(_has_interval, entries)), "the interval"),
    ]
    return [f"{mark:<12}{text}" for mark, used, text in marks if used]


def _unproven(failed: Iterable[Entry], mark: str) -> str:
    """Return the meaning of :data:`FAILED_MARK` followed by ``mark``, if any case has both."""
    marked = [entry for entry in failed if mark in entry.mark]
    if not marked:
        return ""
    reason = "the point estimate breaks the limit"
    if any(entry.verdict.met for entry in marked):
        reason = "not proven, which the strict policy requires"
    return f"; {FAILED_MARK}{mark}: {reason}"


def baseline_level(entries: Iterable[Entry], metric: str) -> str:
    """Return the baseline's own value; empty for a metric without one."""
    levels = [e.verdict.baseline for e in entries if e.verdict.metric == metric]
    value = next((level for level in levels if not math.isnan(level)), math.nan)
    unit = METRICS[metric].table_unit
    return "" if unit is None or math.isnan(value) else unit(value)


def common_limit(entries: Iterable[Entry], metric: str) -> float:
    """Return the limit that most gates on a metric have."""
    limits = [entry.verdict.limit for entry in entries if entry.verdict.metric == metric]
    return max(limits, key=limits.count)


def _zeros(entry: Entry) -> str:
    """Return the share of zeros among the weights, with the N:M pattern of all layers, if any."""
    facts = entry.facts
    text = f"{facts['zeros'] / facts['weights']:.0%}"
    for pattern in ("2_4", "4_8"):
        if facts[f"layers_{pattern}"] == facts["layers"]:
            return f"{pattern.replace('_', ':')} {text}"
    return text


def _cell(entry: Entry | None, common: float, intervals: bool) -> str:
    return "" if entry is None else f"{entry.mark} {cell_text(entry, common, intervals)}".strip()


def cell_text(entry: Entry, common: float, intervals: bool = False) -> str:
    """Return what a table shows of a verdict, without its mark.

    Args:
        entry: the verdict.
        common: the limit in the heading of the column; another limit is shown in the cell.
        intervals: whether to show the interval.
    """
    verdict, metric = entry.verdict, METRICS[entry.verdict.metric]
    if verdict.outcome == NOT_JUDGED:
        return NOT_JUDGED
    if math.isnan(verdict.value):
        return "not a number" if verdict.n else "error"
    text = metric.show(verdict.value, verdict.limit, bare=True)
    if _has_counts(entry):
        text += f" (-{entry.facts['worse']:.0f} +{entry.facts['better']:.0f})"
    if intervals and _has_interval(entry):
        ends = metric.show_interval(verdict.low, verdict.high, verdict.limit, bare=True, to=" ")
        text += f" [{ends}]"
    if verdict.limit != common:
        text += f" ({metric.show_limit(verdict.limit)})"
    return text


def _has_counts(entry: Entry) -> bool:
    """Return whether the cell shows how many answers changed."""
    is_judged = entry.verdict.outcome != NOT_JUDGED and not math.isnan(entry.verdict.value)
    return is_judged and METRICS[entry.verdict.metric].shows_changes and "worse" in entry.facts


def _has_interval(entry: Entry) -> bool:
    return entry.verdict.low < entry.verdict.high


def forms(entries: Iterable[Entry]) -> str:
    """Return the storage forms of the candidates; plain ones are not listed by name."""
    return _by_value({(e.group, e.row): e.form for e in entries if e.form}, PLAIN)


def kernels(entries: Iterable[Entry]) -> str:
    """Return the kernels that computed the candidates; those that ran densely are not listed by
    name."""
    return _by_value({(e.group, e.row): e.kernel for e in entries if e.kernel}, DENSE)


def _by_value(values: Mapping[tuple[str, str], str], usual: str) -> str:
    """Return the names of the rows with each value; those with the usual one are not listed.

    Args:
        values: the value of each group and row.
        usual: the value of most rows.
    """
    rows: dict[str, list[str]] = {}
    for (_, row), value in values.items():
        rows.setdefault(value, []).append(row)
    special = [
        f"{value}: {', '.join(dict.fromkeys(names))}"
        for value, names in rows.items()
        if value != usual
    ]
    rest = [f"{usual}: all others" if special else usual] if usual in rows else []
    return "; ".join([*special, *rest])


def not_judged(entries: Iterable[Entry]) -> list[str]:
    """Return a line for each reason why gates were not judged."""
    by_reason: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        if entry.verdict.outcome == NOT_JUDGED:
            rows = by_reason.setdefault(entry.verdict.reason, {})
            rows.setdefault(METRICS[entry.verdict.metric].title, []).append(entry.row)
    return [
        "; ".join(f"{title} of {', '.join(dict.fromkeys(rows))}" for title, rows in metrics.items())
        + f": {reason}"
        for reason, metrics in by_reason.items()
    ]


def markdown(
    entries: Sequence[Entry],
    lines: Sequence[str],
    more: str = "",
    intervals: bool = False,
    unjudged: str = "",
    decision: Decision | None = None,
) -> str:
    """Return the whole report as Markdown.

    Args:
        entries: the verdicts.
        lines: notes.
        more: a further table.
        intervals: whether cells show intervals.
        unjudged: remark for the heading about what was not judged.
        decision: the first line.
    """
    notes = [*legend(entries, intervals), *lines]
    parts = [
        *(_decision_line(decision) if decision else ()),
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


def _decision_line(decision: Decision) -> list[str]:
    return [f"**Decision: {decision.word}**: {in_markdown(decision.reason)}"]


def _evidence(entry: Entry) -> str:
    """Return the message of a failing case, and its worst items, folded."""
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
