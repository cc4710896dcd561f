"""Tables of the runs in a history, and their export."""

import csv
import difflib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.history.database import History
from compression_gates.evals.history.runs import StoredCase, StoredRun
from compression_gates.evals.history.series import GateSeries, series_of
from compression_gates.evals.history.what_changed import MAX_RUNS
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.report.layout import fit_table
from compression_gates.evals.statistics.item_values import Key

FORMATS = ("jsonl", "csv")
LAST = 30
"""Number of latest runs in the table of a metric or candidate."""
MAX_LISTED = 20
"""Largest number of candidates that an error lists."""
_FORMULA = ("=", "+", "-", "@")
"""First characters of a text that a spreadsheet would compute."""


def all_series(
    history: History, last: int = MAX_RUNS, chosen: Callable[[Key], bool] = lambda key: True
) -> list[GateSeries]:
    """Return the series of gates in a history, one for each profile that has the gate, in the order
    of the latest run.

    Args:
        history: the history.
        last: number of latest runs that are read.
        chosen: which gates are read; default: all.
    """
    runs = history.runs()[-last:]
    of_profile: dict[str, list[StoredRun]] = {}
    for run in runs:
        of_profile.setdefault(run.profile, []).append(run)
    gates = dict.fromkeys(
        (run.profile, case.key)
        for run in reversed(runs)
        for case in history.cases(run.id)
        if chosen(case.key)
    )
    return [
        series_of(members, history.gate(key, [run.id for run in members], items=True))
        for profile, key in gates
        for members in [of_profile[profile]]
    ]


def table_of_runs(history: History, width: int) -> str:
    """Return a table with one row per run, the latest last."""
    runs = history.runs()
    if not runs:
        return "no run is stored yet"
    references = {history.reference(profile).id for profile in {run.profile for run in runs}}
    has_decisions = any(run.decision for run in runs)
    heads = ["run", "time (UTC)", "commit", "branch", "profile", "result", "passed", "failed",
             *(["decision"] if has_decisions else []), "reference"]  # fmt: skip
    rows = []
    for run in runs:
        cases = history.cases(run.id)
        passed = sum(case.passed for case in cases)
        reference = "reference" if run.id in references else ""
        if run.acceptance is not None:
            when = "accepted" if not run.acceptance.forced else "accepted by force"
            reference = f"{reference} {when}: {run.acceptance.reason}".strip(": ").strip()
        rows.append(
            [str(run.id), _minutes(run.time), run.commit[:8], run.branch, run.profile, _result(run),
             str(passed), str(len(cases) - passed), *([_word(run)] if has_decisions else []),
             reference]
        )  # fmt: skip
    return fit_table(heads, _escaped(rows), width, align="left")


def _minutes(time: str) -> str:
    return time[:16].replace("T", " ")


def _word(run: StoredRun) -> str:
    """Return the decision without its reason."""
    return run.decision.partition(":")[0]


def _result(run: StoredRun) -> str:
    return "green" if run.is_green else f"red ({run.exit_status})"


def _escaped(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[on_one_line(cell) for cell in row] for row in rows]


def show(history: History, what: str, width: int) -> str:
    """Return one run by its number, or the latest runs of a metric or of a candidate.

    Args:
        history: the history.
        what: number of a run, ``latest``, name of a metric or heading of its column, or name
            of a candidate.
        width: largest number of characters per line.

    Raises:
        EvalError: there is no such run, metric or candidate.
    """
    runs = history.runs()[-LAST:]
    if what == "latest" and runs:
        return _show_run(history, runs[-1], width)
    if what.isascii() and what.isdigit():
        return _show_run(history, history.run(int(what)), width)
    name = _named(history, runs, what)
    series = all_series(history, LAST, chosen=lambda key: name in key)
    return _show_series(runs, series, name, width)


def _named(history: History, runs: Sequence[StoredRun], what: str) -> str:
    """Return the name of the metric or candidate in ``runs`` that ``what`` is or stands for.

    Raises:
        EvalError: there is none, or more than one.
    """
    keys = [case.key for run in runs for case in history.cases(run.id)]
    metrics = list(dict.fromkeys(metric for _, metric in keys))
    candidates = list(dict.fromkeys(candidate for candidate, _ in keys))
    names = [*metrics, *candidates]
    if what in names:
        return what
    texts = {name: {name.casefold()} for name in names}
    for metric in metrics:
        if metric in METRICS:
            texts[metric] |= {METRICS[metric].title.casefold(), METRICS[metric].label.casefold()}
    meant = [name for name in texts if what.casefold() in texts[name]]
    if len(meant) == 1:
        return meant[0]
    hints = [f"it can be {' or '.join(meant)}"] if meant else _nearest(what, texts)
    hints += [f"metrics: {listed(metrics, shown=len(METRICS))}"] if metrics else []
    hints += [f"candidates: {listed(candidates, shown=MAX_LISTED)}"] if candidates else []
    hints.append("without a further argument, the command lists the runs")
    raise EvalError(
        f"history {history.path}: {what!r} is no run, and no metric or candidate of the last "
        f"{LAST} runs; {'; '.join(hints)}"
    )


def _nearest(what: str, texts: Mapping[str, set[str]]) -> list[str]:
    """Return a hint at the name with the text that is most similar to ``what``, if any."""
    names = {text: name for name, alternatives in texts.items() for text in alternatives}
    near = difflib.get_close_matches(what.casefold(), names, n=1)
    return [f"the nearest name is {names[near[0]]}"] if near else []


def _show_run(history: History, run: StoredRun, width: int) -> str:
    accepted = ""
    if run.acceptance is not None:
        forced = " by force" if run.acceptance.forced else ""
        reason = f": {run.acceptance.reason}" if run.acceptance.reason else ""
        accepted = f"{_minutes(run.acceptance.time)}{forced}{reason}"
    facts = [
        ("run", str(run.id)), ("time", run.time), ("commit", run.commit), ("branch", run.branch),
        ("profile", f"{run.profile} ({run.profile_digest[:12]})"), ("policy", run.policy),
        ("machine", run.machine), ("device", run.device),
        ("versions", f"python {run.python}, torch {run.torch}, transformers {run.transformers}, "
                     f"compression-gates {run.package}"),
        ("result", _result(run)), ("decision", run.decision), ("accepted", accepted),
    ]  # fmt: skip
    lines = [f"{name:<12}{on_one_line(text)}" for name, text in facts if text]
    rows = [_row_of(case) for case in history.cases(run.id)]
    heads = ["candidate", "metric", "value", "interval", "limit", "baseline", "n", "outcome", ""]
    return "\n".join([*lines, "", fit_table(heads, _escaped(rows), width, keys=2, align="left")])


def _row_of(case: StoredCase) -> list[str]:
    mark = "" if case.passed else "known failure" if case.known_failure else "failed"
    metric = METRICS.get(case.metric)
    if metric is None:  # of a package that is not installed any more
        shown = [f"{number:g}" for number in (case.value, case.low, case.limit, case.baseline)]
        return [case.candidate, case.metric, *shown, str(case.n), case.outcome, mark]
    has_interval = math.isfinite(case.low) and case.low < case.high
    return [
        case.candidate,
        case.metric,
        metric.show(case.value, case.limit) if case.has_value else "",
        metric.show_interval(case.low, case.high, case.limit) if has_interval else "",
        metric.show_limit(case.limit),
        (metric.level_unit or metric.unit)(case.baseline) if math.isfinite(case.baseline) else "",
        f"{case.n:,}",
        case.outcome,
        mark,
    ]


def _show_series(
    runs: Sequence[StoredRun], series: Sequence[GateSeries], what: str, width: int
) -> str:
    """Return a table with one row per run and one column per series, and the steps and breaks below
    it."""
    names = [item.candidate if what == item.metric else item.metric for item in series]
    if len({item.profile for item in series}) > 1:
        names = [f"{name} ({item.profile})" for name, item in zip(names, series, strict=True)]
    values = [{point.run: point.value for point in item.points} for item in series]
    shown = [run for run in runs if any(run.id in by_run for by_run in values)]
    rows = []
    for run in shown:
        marks = "accepted" if run.acceptance is not None else ""
        cells = [
            _value(item.metric, by_run[run.id]) if run.id in by_run else ""
            for item, by_run in zip(series, values, strict=True)
        ]
        rows.append([f"{run.id}", run.time[:10], run.commit[:8], marks, *cells])
    heads = ["run", "date", "commit", "", *map(on_one_line, names)]
    lines = [fit_table(heads, _escaped(rows), width, keys=3)]
    for name, item in zip(names, series, strict=True):
        for step in item.steps:
            commit = f", commit {step.commit[:8]}" if step.commit else ""
            change = f"{_value(item.metric, step.before)} -> {_value(item.metric, step.after)}"
            where = f"run {step.run} ({step.time[:10]}{commit})"
            lines.append(on_one_line(f"step        {name}: {change} at {where}"))
        for point, reason in item.breaks.items():
            run = item.points[point].run
            lines.append(on_one_line(f"break       {name}: {reason} from run {run} on"))
    return "\n".join(lines)


def _value(metric: str, value: float) -> str:
    if math.isnan(value):
        return "none"
    return METRICS[metric].show(value) if metric in METRICS else f"{value:g}"


def rows_of(history: History) -> Iterator[dict[str, object]]:
    """Yield one flat row per case of every run, the oldest run first."""
    for run in history.runs():
        acceptance = run.acceptance
        of_run = {
            "run": run.id, "time": run.time, "commit": run.commit, "branch": run.branch,
            "machine": run.machine, "device": run.device, "python": run.python,
            "torch": run.torch, "transformers": run.transformers, "package": run.package,
            "policy": run.policy, "profile": run.profile, "profile_digest": run.profile_digest,
            "exit_status": run.exit_status, "decision": run.decision,
            "accepted": acceptance is not None,
            "accepted_reason": acceptance.reason if acceptance else "",
        }  # fmt: skip
        for case in history.cases(run.id):
            of_case = {
                name: value for name, value in vars(case).items() if name not in ("items", "origin")
            }
            origin = {f"origin_{part}": digest for part, digest in sorted(case.origin.items())}
            yield {**of_run, **of_case, **origin}


def export(history: History, form: str) -> str:
    """Return all cases of all runs as JSON lines or CSV.

    Numbers that are missing are ``null`` and empty. A text that a spreadsheet would read as a
    formula begins with an apostrophe in CSV.

    Args:
        history: the history.
        form: one of :data:`FORMATS`.
    """
    rows = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in rows_of(history)
    ]
    if form == "jsonl":
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(_csv_cell, columns))
    for row in rows:
        writer.writerow([_csv_cell(row.get(name, "")) for name in columns])
    return stream.getvalue()


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = on_one_line(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
