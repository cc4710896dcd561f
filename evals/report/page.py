"""The page of a report: one HTML file that needs neither a network nor other files.

Everything on the page comes from the rows of ``report.jsonl`` and from the per-item values, so a
page can be made again from the folder of a report. The scripts of the page and Plotly's are part of
the file, and its Content-Security-Policy admits no others and no request.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from compression_gates.evals.errors import EvalError
from compression_gates.evals.history.series import GateSeries
from compression_gates.evals.report import page_data
from compression_gates.evals.report.figures import figures, trend_figure
from compression_gates.evals.report.ranking import rankings
from compression_gates.evals.report.report_rows import (
    Row,
    entries_of,
    first,
    weights_of,
)
from compression_gates.evals.report.trends import trends_of
from compression_gates.evals.statistics.item_values import ItemValues, Key

PAGE = "report.html"
MOST_TRENDS = 1000
"""Largest number of trends in a page; those with a step are first, and constant ones last."""
TITLE = "Compression gates"
SCRIPTS = ("shared.js", "tables.js", "evidence.js", "plots.js")
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""Characters that could end a script element, or that are line ends in a script only."""
_WORDS = {"release": "passed", "do not release": "failed"}
"""The style of the words of a decision; any other word is uncertain."""


def render(
    rows: Sequence[Row],
    items: Mapping[Key, ItemValues] | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        rows: the objects of ``report.jsonl``.
        items: per-item values by candidate and metric, for distributions.

    Raises:
        EvalError: a row is damaged, or its metric is not registered.
    """
    entries = entries_of(rows)
    ranked = rankings(entries, weights_of(rows))
    trends = sorted(trends_of(rows), key=_interest)[:MOST_TRENDS]
    indexes = {(trend.candidate, trend.metric): i for i, trend in enumerate(trends)}
    drawn = figures(entries, items, ranked)
    data = page_data.details(entries, indexes) | {
        "figures": [page_data.figure_json(figure) for figure in drawn],
        "trends": [page_data.figure_json(trend_figure(trend)) for trend in trends],
    }
    notes, noise = first(rows, "notes"), _all(rows, "noise_floor")
    return _rendered(
        title=TITLE,
        decision=_decision(rows),
        counts=page_data.counts(entries),
        total=len(entries),
        legend=page_data.legend_of(entries),
        matrices=page_data.matrices(entries),
        rankings=page_data.ranking_tables(ranked),
        comparisons=page_data.plain(_all(rows, "since")),
        noise=page_data.plain(noise),
        noise_heads=list(dict.fromkeys(key for row in noise for key in page_data.plain(row))),
        notes=page_data.plain(notes if isinstance(notes, list) else []),
        defects=[page_data.plain(row) for row in rows if "defect" in row],
        manifest=page_data.plain(first(rows, "manifest")) or page_data.measured_with(entries),
        has_figures=bool(drawn),
        has_trends=bool(trends),
        outcomes=page_data.OUTCOMES,
        data=embedded(data),
        **_parts(bool(drawn or trends)),
    )


def _interest(trend: GateSeries) -> int:
    if trend.steps:
        return 0
    return 2 if len({point.value for point in trend.points}) == 1 else 1


def _all(rows: Sequence[Row], key: str) -> list[Mapping[str, object]]:
    """Return the mappings under ``key`` in all rows."""
    return [row[key] for row in rows if isinstance(row.get(key), Mapping)]


def _rendered(**values: object) -> str:
    from jinja2 import TemplateError

    try:
        return _template().render(**values)
    except (TemplateError, TypeError) as error:
        raise EvalError(f"a row of the report cannot be shown: {error}") from error


def embedded(data: object) -> str:
    """Return JSON that cannot end the script element that contains it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _decision(rows: Sequence[Row]) -> dict[str, object] | None:
    """Return the sentence on top of the page: the error of a run that did not start, or the
    decision on the release."""
    error = first(rows, "error")
    if error is not None:
        reason = page_data.shown(error)
        return {"word": "not run", "reason": reason, "kind": "failed", "candidates": {}}
    decision = first(rows, "decision")
    if not isinstance(decision, Mapping):
        return None
    word = page_data.shown(decision.get("word", ""))
    kind = _WORDS.get(word, "inconclusive")
    return {
        "word": word,
        "reason": page_data.shown(decision.get("reason", "")),
        "kind": kind,
        "candidates": page_data.plain(decision.get("candidates") or {}),
    }


def _parts(plots: bool) -> dict[str, str]:
    """Return styles, scripts and the policy that admits exactly these.

    Args:
        plots: whether the page needs Plotly.
    """
    style = _text("page.css")
    script = "\n".join(map(_text, SCRIPTS))
    plotly = _plotly() if plots else ""
    hashes = " ".join(_hash(part) for part in (script, plotly) if part)
    # Plotly sets the styles of its elements itself, which cannot be listed by hash, and version 6
    # looks whether the browser reads WebP images by an image inside a data: address.
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"style": style, "script": script, "plotly": plotly, "policy": policy}


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _text(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Return Plotly's script. The Python package contains one bundle only, the complete one."""
    from plotly.offline import get_plotlyjs

    # A browser normalizes line ends before it computes the hash.
    return get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")


@cache
def _template():
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("page.html"))
