"""Converts sample logs of lm-evaluation-harness into the scores that the metrics take.

The per-document numbers of the harness are taken as they are; nothing is scored again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compression_gates.evals.data.documents import document_indices, passages
from compression_gates.evals.data.items import DataSet, Item, Labelled, Prompt, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.metrics.metric import CHOICES, Metric
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.scores import LogScores
from compression_gates.evals.store.measurement import Measurement, key_of

_FIXED = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
          "doc_hash", "prompt_hash", "target_hash"}  # fmt: skip
ROUNDING = 1e-3
"""Largest log-likelihood above 0 that is accepted as a rounding error."""
_EXCERPT = 2000
"""Largest number of characters of a prompt that are stored for display."""


@dataclass(frozen=True)
class LoggedTask:
    """The scores of both sides on a task.

    Attributes:
        name: of the task, with the metric or filter if there are several of a kind.
        metrics: the gates for which it has scores.
        baseline, candidate: the scores.
        unjudged: the harness's metrics of the task without a gate.
    """

    name: str
    metrics: tuple[str, ...]
    baseline: LogScores
    candidate: LogScores
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskReader:
    """Converts the lines of one task.

    Attributes:
        row: name of the task in the report.
        config: its configuration in the results file.
    """

    row: str
    config: Mapping

    def read(self, before: list[Mapping], after: list[Mapping]) -> list[LoggedTask]:
        """Return the scores of the task; each further metric for the same gate is a row of its own.

        Args:
            before, after: lines of the baseline and of the candidate, in the same order.

        Raises:
            EvalError: there is no gate for any metric, or a number is missing or invalid.
        """
        names = [name for name in before[0].get("metrics") or before[0] if name not in _FIXED]
        if "word_perplexity" in names:  # the loss per byte is the same loss in another unit
            names = [name for name in names if name != "byte_perplexity"]
        sides = (before, after)
        entries: list[tuple[str, str, str, list]] = []  # metric, role, gate, scores of both sides
        for name in names:
            metric = next((m for m in METRICS.values() if m.is_logged_as(name)), None)
            scored = metric and self._scored(name, metric, sides)
            if scored is not None:
                entries.append((name, metric.scored, metric.name, scored))
        judged = {name for name, *_ in entries}
        unjudged = tuple(name for name in names if name not in judged)
        if not entries:
            raise EvalError(f"{self.row}: there is no gate for {', '.join(unjudged) or 'it'}")
        rows: list[list[tuple]] = []
        for entry in entries:
            # Each row has every gate once; the first metric of a gate is in the first row.
            row = next((r for r in rows if entry[2] not in {gate for _, _, gate, _ in r}), None)
            if row is None:
                rows.append([entry])
            else:
                row.append(entry)
        return [self._row(index, row, unjudged) for index, row in enumerate(rows)]

    def _row(self, index: int, row: list[tuple], unjudged: tuple[str, ...]) -> LoggedTask:
        name = self.row if index == 0 else f"{self.row}-{on_one_line(row[0][0])}"
        gates = []
        sides: tuple[dict, dict] = ({}, {})
        for _, role, gate, scored in row:
            gates.append(gate)
            if "log_probabilities" in scored[0].measurement.arrays:
                gates += [name for name, m in METRICS.items() if m.is_logged_as(CHOICES)]
            for side, scores in zip(sides, scored, strict=True):
                side[role] = _merged(side[role], scores) if role in side else scores
        return LoggedTask(name, tuple(gates), *map(LogScores, sides), unjudged)

    def _scored(self, name: str, metric: Metric, sides) -> list[Scored] | None:
        """Return both sides' scores of the harness's metric ``name``; None if it has no numbers per
        document."""
        if metric.scored == "labels":
            return self._accuracy(name, sides)
        if metric.scored == "text":
            return self._perplexity(name, sides)
        return self._share(name, metric.scored, sides)

    def _numbers(self, metric: str, sides, read: Callable) -> list[list] | None:
        """Return the number of every document of both sides; None if no document has one.

        Raises:
            EvalError: only some documents have one.
        """
        values = [[read(line.get(metric)) for line in lines] for lines in sides]
        missing = [value is None for side in values for value in side]
        if all(missing):
            return None
        if any(missing):
            raise EvalError(f"{self.row}: {sum(missing)} documents have no number for {metric}")
        return values

    def _check_shares(self, metric: str, values: list[list[float]]) -> None:
        for index, value in enumerate(value for side in values for value in side):
            if not (0.0 <= value <= 1.0 or math.isnan(value)):
                document = index % len(values[0])
                raise EvalError(
                    f"{self.row}: document {document}: {metric} = {value:g} is not between 0 and 1"
                )

    def _share(self, metric: str, role: str, sides) -> list[Scored] | None:
        values = self._numbers(metric, sides, _number)
        if values is None:
            return None  # for example a pair of texts, for a metric of the whole corpus
        self._check_shares(metric, values)
        items = tuple(
            Prompt(_prompt_of(line), str(line.get("target")), document)
            for line, document in zip(sides[0], documents_of(sides[0]), strict=True)
        )
        return [
            self._side(role, items, {
                metric: np.array(scores, float),
                "continuations": np.array([_answer_of(line) for line in lines]),
            })
            for scores, lines in zip(values, sides, strict=True)
        ]  # fmt: skip

    def _accuracy(self, metric: str, sides) -> list[Scored] | None:
        values = self._numbers(metric, sides, _number)
        if values is None:
            return None
        self._check_shares(metric, values)
        choices = metric == "acc" and self.config.get("output_type") == "multiple_choice"
        items = tuple(
            Labelled(_prompt_of(line), 0, document)
            for line, document in zip(sides[0], documents_of(sides[0]), strict=True)
        )
        likelihoods = [self._choices(lines) for lines in sides] if choices else []
        if choices and not np.array_equal(*(np.isneginf(side) for side in likelihoods)):
            raise EvalError(f"{self.row}: the number of choices differs between the two sides")
        scored = []
        for index, right in enumerate(values):
            arrays = {"right": np.array(right, float)}
            if choices:
                arrays["log_probabilities"] = likelihoods[index]
            scored.append(self._side("labels", items, arrays))
        return scored

    def _choices(self, lines: Sequence[Mapping]) -> np.ndarray:
        """Return log-probabilities among the choices, ``(documents, choices)``; -inf for documents
        with fewer choices."""
        rows = []
        for line in lines:
            answers = line.get("filtered_resps")
            if not isinstance(answers, list) or not answers:
                raise EvalError(f"{self.row}: document {line['doc_id']} has no filtered_resps")
            # For mutual information the choices are repeated without the question.
            count = len(answers) // 2 if "acc_mutual_info" in line else len(answers)
            rows.append([float(answer[0]) for answer in answers[:count]])
        choices = np.full((len(rows), max(map(len, rows))), -math.inf)
        for index, row in enumerate(rows):
            likelihoods = np.array(row)
            choices[index, : len(row)] = likelihoods - np.logaddexp.reduce(likelihoods)
        return choices

    def _perplexity(self, metric: str, sides) -> list[Scored] | None:
        pairs = self._numbers(metric, sides, _likelihood)
        if pairs is None:
            return None
        if any(total > ROUNDING for side in pairs for total, _ in side):
            raise EvalError(f"{self.row}: a log-likelihood of {metric} is above 0")
        unit = "target" if metric == "perplexity" else metric.removesuffix("_perplexity")
        units = [[count for _, count in side] for side in pairs]
        if units[0] != units[1]:
            raise EvalError(f"{self.row}: the number of {unit}s of a document differs")
        documents = documents_of(sides[0])
        items = tuple(
            Text(_prompt_of(line), document)
            for line, document in zip(sides[0], documents, strict=True)
        )
        windows = np.repeat(np.arange(len(items)), units[0])
        count = len(set(documents))
        protocol = f"per {unit} on {self.row}, {count} documents, by lm-eval"
        scored = []
        for side in pairs:
            # A document's loss is divided equally among its units, which keeps the document sums.
            nll = np.concatenate([np.full(count, -total / count) for total, count in side])
            arrays = {
                "nll": nll,
                "tokens": np.zeros(len(nll), int),
                "window": windows,
                "cluster": np.repeat(documents, units[0]),
                "window_text": np.array([item.text for item in items]),
                "windowing": np.zeros(2, int),
            }
            scored.append(self._side("text", items, arrays, protocol))
        return scored

    def _side(
        self, role: str, items: tuple[Item, ...], arrays: Mapping[str, np.ndarray],
        protocol: str = "",
    ) -> Scored:  # fmt: skip
        origin = {"data": key_of({"row": self.row, "role": role})}
        return Scored(DataSet(self.row, items), Measurement(arrays, origin), protocol)


def documents_of(lines: Sequence[Mapping]) -> list[int]:
    """Return the document of each line, numbered from 0; lines about the same passage share one.

    lm-eval calls every line a document. The passage is the field of ``doc`` with a name from
    :data:`evals.data.documents.PASSAGE_COLUMNS`; if no passage is repeated, each line is a
    document.
    """
    docs = [doc if isinstance(doc := line.get("doc"), Mapping) else {} for line in lines]
    return document_indices(passages(docs) or [None] * len(docs))


def _merged(first: Scored, second: Scored) -> Scored:
    """Return the scores of both for the same answers."""
    arrays = {**first.measurement.arrays, **second.measurement.arrays}
    return replace(first, measurement=Measurement(arrays, first.measurement.origin))


def _number(value: object) -> float | None:
    """Return a document's score, which may be text before release 0.4.13; None if it has none."""
    if isinstance(value, str):
        value = {"True": 1.0, "False": 0.0}.get(value, value)
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) else None


def _likelihood(value: object) -> tuple[float, int] | None:
    """Return the log-likelihood in nats and the number of its words, bytes or targets, or None."""
    if isinstance(value, list | tuple) and len(value) == 2:
        total, count = map(_number, value)
        if total is None or count is None or count < 1:
            return None
        return total, int(count)
    total = _number(value)
    return None if total is None else (total, 1)


def _prompt_of(line: Mapping) -> str:
    """Return the end of the prompt, or of the text of a document."""
    arguments = line.get("arguments")
    while isinstance(arguments, Mapping | list) and arguments:
        arguments = next(iter(arguments.values() if isinstance(arguments, Mapping) else arguments))
    return str(arguments)[-_EXCERPT:]


def _answer_of(line: Mapping) -> str:
    answers = line.get("filtered_resps")
    return str(answers[0] if isinstance(answers, list) and answers else answers)
