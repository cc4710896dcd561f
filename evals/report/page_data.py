"""What the page of a report shows, as plain data: tables for its template, and JSON for its script.

All texts are cut to a length and escaped (:func:`evals.foreign_text.printable`) here.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from compression_gates.evals.foreign_text import printable
from compression_gates.evals.gates.gate import FAILED, INCONCLUSIVE, NOT_JUDGED, PASSED
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.regressions import IN_MARKDOWN, Regression
from compression_gates.evals.report.figure_data import Figure, style_of, with_short_texts
from compression_gates.evals.report.ranking import AXIS_TITLES, Ranking, Standing
from compression_gates.evals.report.report import (
    Entry,
    baseline_level,
    cell_text,
    common_limit,
    legend,
    shown_metrics,
)

KNOWN, UNEXPECTED = "known failure", "unexpected pass"
ADVICE, GAIN = "advisory limit broken", "implausible gain"
OUTCOMES = (FAILED, KNOWN, ADVICE, GAIN, INCONCLUSIVE, NOT_JUDGED, PASSED)
"""Outcomes by which the page can be filtered."""
PASSED_MARK, NOT_JUDGED_MARK = "✓", "–"
LONGEST_NAME, LONGEST_TEXT = 200, 4000
"""Largest numbers of characters of a name and of any other text."""
ITEM_BUDGET, MESSAGE_BUDGET = 4_000_000, 2_000_000
"""Largest numbers of characters of all items and of all messages in a page."""
SHORTEST_MESSAGE = 400
ITEM_COUNTS = (IN_MARKDOWN, 5, 3, 2, 1, 0)
"""Numbers of worst items per case, of which the largest is shown that keeps the budget."""
DIGITS = 6
"""Significant digits of numbers in figures."""
MOST_DOMINATORS, MOST_MODULES = 3, 10
_ITEM_TEXTS = ("prompt", "question", "expected", "baseline", "candidate")


def shown(text: object, length: int = LONGEST_TEXT) -> str:
    """Return a text from a report, cut to ``length`` characters and escaped."""
    text = str(text)
    if len(text) > length:
        text = f"{text[:length]} [... {len(text) - length:,} more characters]"
    return printable(text)


def name_of(text: object) -> str:
    """Return a name from a report on one line, cut and escaped."""
    return shown(text, LONGEST_NAME).replace("\n", "\\n").replace("\t", "\\t")


def plain(value: object) -> object:
    """Return a JSON value in which all texts are cut and escaped; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {name_of(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return shown(value) if isinstance(value, str) else value


def outcomes_of(entry: Entry) -> list[str]:
    """Return the outcomes of a case by which it can be found; the first one decides."""
    outcome = entry.verdict.outcome
    parts = [] if entry.passed else [KNOWN if entry.reason else FAILED]
    if entry.passed and entry.verdict.breaks_advice:
        parts.append(ADVICE)
    if entry.verdict.is_implausible_gain:
        parts.append(GAIN)
    if outcome in (INCONCLUSIVE, NOT_JUDGED):
        parts.append(outcome)
    return parts or [PASSED]


def word_of(entry: Entry) -> str:
    """Return the outcome of a case in words."""
    return UNEXPECTED if entry.is_unexpected_pass else ", ".join(outcomes_of(entry))


def mark_of(entry: Entry) -> str:
    """Return the mark of a case, also if it passed."""
    if entry.mark:
        return entry.mark
    return NOT_JUDGED_MARK if entry.verdict.outcome == NOT_JUDGED else PASSED_MARK


def _style(entry: Entry) -> str:
    """Return the name of the style of a case."""
    return outcomes_of(entry)[0].replace(" ", "-")


def legend_of(entries: Sequence[Entry]) -> list[str]:
    """Return what each mark in the tables means."""
    used = {mark_of(entry) for entry in entries}
    own = {PASSED_MARK: PASSED, NOT_JUDGED_MARK: NOT_JUDGED}
    lines = [f"{mark} {text}" for mark, text in own.items() if mark in used]
    return [*lines, *(re.sub(r"\s+", " ", line) for line in legend(entries))]


def counts(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the number of cases by their deciding outcome."""
    found = Counter(outcomes_of(entry)[0] for entry in entries)
    return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}


def matrices(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Return one table per baseline. A cell has the index of its entry as ``id``."""
    numbers = {id(entry): number for number, entry in enumerate(entries)}
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    tables = []
    for group, members in groups.items():
        metrics = shown_metrics(members)
        limits = {metric: common_limit(members, metric) for metric in metrics}
        rows: dict[str, dict[str, Entry]] = {}
        for entry in members:
            rows.setdefault(entry.row, {})[entry.verdict.metric] = entry
        tables.append(
            {
                "group": name_of(group),
                "columns": [
                    {
                        "title": METRICS[m].title,
                        "limit": METRICS[m].show_limit(limits[m]),
                        "baseline": baseline_level(members, m),
                    }
                    for m in metrics
                ],
                "rows": [
                    {
                        "name": name_of(row),
                        "search": name_of(f"{row} {group}").lower(),
                        "outcomes": sorted({o for e in cells.values() for o in outcomes_of(e)}),
                        "cells": [
                            _cell(cells[m], numbers[id(cells[m])], limits[m])
                            if m in cells
                            else None
                            for m in metrics
                        ],
                    }
                    for row, cells in rows.items()
                ],
            }
        )
    return tables


def _cell(entry: Entry, number: int, common: float) -> dict[str, object]:
    metric, value = METRICS[entry.verdict.metric], entry.verdict.value
    return {
        "id": number,
        "mark": mark_of(entry),
        "word": word_of(entry),
        "kind": _style(entry),
        "text": cell_text(entry, common),
        "sort": "" if math.isnan(value) else f"{metric.change(value):.9g}",
    }


def details(
    entries: Sequence[Entry], trends: Mapping[tuple[str, str], int] | None = None
) -> dict[str, object]:
    """Return the evidence of all cases, for the script of the page.

    Texts of items are stored once, and items refer to them by index.

    Args:
        entries: the verdicts.
        trends: indexes of trends by candidate and metric.
    """
    table: dict[str, int] = {}
    count = items_per_case(entries)
    failing = sum(bool(entry.text) for entry in entries)
    length = max(SHORTEST_MESSAGE, min(LONGEST_TEXT, MESSAGE_BUDGET // max(failing, 1)))
    cells = []
    for entry in entries:
        cell = _evidence(entry, table, count, length)
        trend = (trends or {}).get((entry.verdict.candidate, entry.verdict.metric))
        cells.append(cell if trend is None else cell | {"trend": trend})
    return {"cells": cells, "texts": list(table)}


def items_per_case(entries: Sequence[Entry]) -> int:
    """Return how many worst items per case keep :data:`ITEM_BUDGET`; equal texts count once."""
    for count in ITEM_COUNTS:
        texts = {text for e in entries for item in e.regressions[:count] for text in _texts(item)}
        if sum(min(len(text), LONGEST_TEXT) for text in texts) <= ITEM_BUDGET:
            return count
    return 0


def _texts(item: Regression) -> list[str]:
    values = (getattr(item, name) for name in _ITEM_TEXTS)
    return [value for value in values if isinstance(value, str)]


def _evidence(entry: Entry, table: dict[str, int], count: int, length: int) -> dict[str, object]:
    verdict, metric = entry.verdict, METRICS[entry.verdict.metric]
    limit = metric.unit.exactly(verdict.limit, signed=False)
    level = metric.level_unit

    def own_value(value: float) -> str:
        return "" if level is None or math.isnan(value) else level(value)

    evidence = {
        "candidate": name_of(verdict.candidate),
        "baseline": name_of(entry.group),
        "metric": name_of(verdict.metric),
        "title": metric.title,
        "promise": metric.promise.format(limit=limit),
        "mark": mark_of(entry),
        "word": word_of(entry),
        "kind": _style(entry),
        "value": "" if math.isnan(verdict.value) else metric.show(verdict.value, verdict.limit),
        "interval": _interval(entry),
        "limit": metric.show_limit(verdict.limit),
        "size": _size(entry),
        "baselineValue": own_value(verdict.baseline),
        "candidateValue": own_value(verdict.measured),
        "unreliable": shown(verdict.unreliable),
        "notJudged": shown(verdict.reason),
        "known": shown(entry.reason),
        "tier": name_of(entry.tier),
        "form": name_of(entry.form),
        "kernel": shown(entry.kernel),
        "lines": [shown(line) for line in entry.evidence],
        "message": shown(entry.text, length),
        "rerun": shown(entry.rerun),
        "items": [_item(item, table) for item in entry.regressions[:count]],
        "itemsTotal": len(entry.regressions) + entry.regressions_omitted,
        "attribution": _attribution(entry.attribution),
    }
    return {key: value for key, value in evidence.items() if value not in ("", [], {}, None, 0)}


def _size(entry: Entry) -> str:
    """Return the number of items, and of documents or windows if there are fewer."""
    n, clusters, unit = entry.verdict.n, entry.verdict.clusters, entry.verdict.unit
    in_units = f" in {clusters:,} {name_of(unit)}" if 0 < clusters < n else ""
    return f"{n:,}{in_units}" if n else ""


def _attribution(value: object) -> dict[str, object]:
    """Return what the page shows of the attribution of a divergence to modules."""
    if not isinstance(value, Mapping):
        return {}
    lines = [*(value.get("where") or ()), *(value.get("weights") or ())]
    modules = [
        [name_of(module["name"]), f"{module['share']:.1%}"]
        for module in (value.get("modules") or ())[:MOST_MODULES]
        if isinstance(module.get("share"), float)
    ]
    found = {"lines": [shown(line) for line in lines[:MOST_MODULES]], "modules": modules}
    return {name: part for name, part in found.items() if part}


def _interval(entry: Entry) -> str:
    verdict = entry.verdict
    if not verdict.has_interval:
        return ""
    ends = METRICS[verdict.metric].show_interval(verdict.low, verdict.high, verdict.limit)
    return f"{ends} ({verdict.confidence * 100:g}%)"


def _item(item: Regression, table: dict[str, int]) -> dict[str, object]:
    def index(value: object) -> object:
        if isinstance(value, bool):
            value = "right" if value else "wrong"
        return None if value is None else table.setdefault(shown(value), len(table))

    texts = {name: index(getattr(item, name)) for name in _ITEM_TEXTS}
    loss = f"{item.loss:.3g} {item.unit}" if item.unit else ""
    row = {"place": item.place, "loss": shown(loss), **texts}
    if not item.question:
        del row["question"]
    return {key: value for key, value in row.items() if value not in (None, "")}


def ranking_tables(ranked: Iterable[Ranking]) -> list[dict[str, object]]:
    """Return one table of candidates per baseline, the highest score first."""
    return [
        {
            "group": name_of(ranking.group),
            "axes": [
                {
                    "name": axis,
                    "title": AXIS_TITLES[axis],
                    "source": ranking.sources[axis],
                    "weight": ranking.weights[axis],
                }
                for axis in ranking.axes
            ],
            "largestWeight": max(1.0, *ranking.weights.values()),
            "absent": [title for axis, title in AXIS_TITLES.items() if axis not in ranking.axes],
            "baseline": {axis: _axis_text(axis, ranking.baseline[axis]) for axis in ranking.axes},
            "best": name_of(ranking.best.row) if ranking.best else "",
            "rows": [_standing(standing, ranking) for standing in ranking.standings],
        }
        for ranking in ranked
    ]


def _standing(standing: Standing, ranking: Ranking) -> dict[str, object]:
    missing = [AXIS_TITLES[a] for a in ranking.axes if math.isnan(standing.values[a])]
    others = standing.dominated_by
    more = f" and {len(others) - MOST_DOMINATORS} more" if len(others) > MOST_DOMINATORS else ""
    if standing.on_front is None:
        front = f"not compared: {', '.join(missing)} not judged"
    elif standing.on_front:
        front = "★ on the front"
    else:
        names = ", ".join(map(name_of, others[:MOST_DOMINATORS]))
        front = f"dominated by {names}{more}"
    gates = [(standing.failed, "✗", FAILED), (standing.known, "(✗)", "known"),
             (standing.unsure, "≈", "not proven")]  # fmt: skip
    return {
        "name": name_of(standing.row),
        "search": name_of(f"{standing.row} {ranking.group}").lower(),
        "rank": standing.rank,
        "score": None if math.isnan(standing.score) else standing.score,
        "values": [
            {
                "number": None if math.isnan(standing.values[axis]) else standing.values[axis],
                "text": _axis_text(axis, standing.values[axis]),
            }
            for axis in ranking.axes
        ],
        "front": front,
        "onFront": bool(standing.on_front),
        "failed": standing.failed + standing.known,
        "eligible": "true" if standing.passed_all else "false",
        "gates": [f"{mark} {number} {word}" for number, mark, word in gates if number]
        or ["✓ all passed"],
    }


def _axis_text(axis: str, value: float) -> str:
    if math.isnan(value):
        return "not judged"
    return f"{value * 100:.2f}%" if axis == "task" else f"{value:.2f}x"


def figure_json(figure: Figure) -> dict[str, object]:
    """Return a figure as JSON, with the style of each series, and without fields that have their
    default."""
    values = plain(asdict(with_short_texts(figure)))
    for series in values["series"]:
        for name in ("x", "y", "low", "high"):
            series[name] = [_rounded(number) for number in series[name]]
        series["labels"] = [name_of(label) for label in series["labels"]]
    series = [
        _without_empty(one)
        | {"x": one["x"], "labels": one["labels"], "style": asdict(style_of(index))}
        for index, one in enumerate(values["series"])
    ]
    return _without_empty(values) | {"series": series}


def _without_empty(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value not in ("", (), [], False)}


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.{DIGITS}g}")


def measured_with(entries: Sequence[Entry]) -> dict[str, object]:
    """Return what entries hold about their measurement, for a report without a manifest."""
    baselines = {name_of(e.group): shown(e.origin["baseline"]) for e in entries
                 if e.origin.get("baseline")}  # fmt: skip
    engines = sorted({shown(entry.kernel) for entry in entries if entry.kernel})
    forms = sorted({shown(entry.form) for entry in entries if entry.form})
    machines = sorted({shown(e.origin["machine"]) for e in entries if e.origin.get("machine")})
    facts = {
        "baselines": baselines, "storage forms": forms, "engines and kernels": engines,
        "machines": machines,
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value}
