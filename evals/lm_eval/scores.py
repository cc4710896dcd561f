"""What lm-evaluation-harness measured of a task, as scores that this suite's metrics read.

Read are the numbers that the harness gave each document; nothing is scored again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import LOG
from compression_gates.evals.data.documents import numbered, passages
from compression_gates.evals.data.items import DataSet, Item, Labelled, Prompt, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.metrics.metric import CHOICES, Metric
from compression_gates.evals.metrics.reading import Scored
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.scores import Scores
from compression_gates.evals.store.measurement import Measurement, key_of

_FIXED = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
          "doc_hash", "prompt_hash", "target_hash"}  # fmt: skip
ROUNDING = 1e-3
"""By which a log-likelihood may lie above 0."""
_EXCERPT = 2000
"""Characters of a prompt that are kept to show where a candidate got worse."""


@dataclass(frozen=True)
class Logged:
    """A task as both sides were measured on it.

    Attributes:
        name: of the task, with the metric or filter where it has several of a kind.
        metrics: this suite's gates that it has numbers for.
        baseline, candidate: those numbers.
        unjudged: the harness's metrics of the task that no gate is for.
    """

    name: str
    metrics: tuple[str, ...]
    baseline: Scores
    candidate: Scores
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskReader:
    """Makes scores of the lines of one task."""

    row: str
    config: Mapping

    def logged(self, one: list[Mapping], two: list[Mapping]) -> list[Logged]:
        """A row for the task, and one more for each further metric of a kind."""
        names = [name for name in one[0].get("metrics") or one[0] if name not in _FIXED]
        if "word_perplexity" in names:  # what is lost per byte is the same loss again
            names = [name for name in names if name != "byte_perplexity"]
        sides = (one, two)
        found: list[tuple[str, str, str, list]] = []  # metric, role, gate, values of both sides
        for name in names:
            metric = next((m for m in METRICS.values() if m.is_logged_as(name)), None)
            scored = metric and self._scored(name, metric, sides)
            if scored is not None:
                found.append((name, metric.scored, metric.name, scored))
        judged = {name for name, *_ in found}
        unjudged = tuple(name for name in names if name not in judged)
        if not found:
            raise EvalError(f"{self.row}: no gate is for {', '.join(unjudged) or 'it'}")
        rows: list[list[tuple]] = []
        for entry in found:
            # Each row has every gate once; the first of a kind goes into the first row.
            row = next((r for r in rows if entry[2] not in {gate for _, _, gate, _ in r}), None)
            if row is None:
                rows.append([entry])
            else:
                row.append(entry)
        return [self._row(index, row, unjudged) for index, row in enumerate(rows)]

    def _row(self, index: int, row: list[tuple], unjudged: tuple[str, ...]) -> Logged:
        name = self.row if index == 0 else f"{self.row}-{on_one_line(row[0][0])}"
        gates = []
        sides: tuple[dict, dict] = ({}, {})
        for _, role, gate, scored in row:
            gates.append(gate)
            if "log_probabilities" in scored[0].measurement.arrays:
                gates += [name for name, m in METRICS.items() if m.is_logged_as(CHOICES)]
            for side, one in zip(sides, scored, strict=True):
                side[role] = _together(side[role], one) if role in side else one
        return Logged(name, tuple(gates), *(Scores(LOG, side) for side in sides), unjudged)

    def _scored(self, name: str, metric: Metric, sides) -> list[Scored] | None:
        """Both sides' numbers of what the harness calls ``name``; None where it has none for a
        document."""
        if metric.scored == "labels":
            return self._accuracy(name, sides)
        if metric.scored == "text":
            return self._perplexity(name, sides)
        return self._share(name, metric.scored, sides)

    def _numbers(self, metric: str, sides, read: Callable) -> list[list] | None:
        """What every document of both sides has of a metric; None where none has a number.

        Raises:
            EvalError: some have one and some have not: they would be judged without these.
        """
        found = [[read(line.get(metric)) for line in lines] for lines in sides]
        lacking = [value is None for side in found for value in side]
        if all(lacking):
            return None
        if any(lacking):
            raise EvalError(f"{self.row}: {sum(lacking)} documents have no number for {metric}")
        return found

    def _check_shares(self, metric: str, values: list[list[float]]) -> None:
        for index, value in enumerate(value for side in values for value in side):
            if not (0.0 <= value <= 1.0 or math.isnan(value)):
                where = index % len(values[0])
                raise EvalError(f"{self.row}: document {where}: {metric} = {value:g} is no share")

    def _share(self, metric: str, role: str, sides) -> list[Scored] | None:
        values = self._numbers(metric, sides, _number)
        if values is None:
            return None  # a pair for the whole corpus, not a number for a document
        self._check_shares(metric, values)
        items = tuple(
            Prompt(_asked(line), str(line.get("target")), document)
            for line, document in zip(sides[0], documents_of(sides[0]), strict=True)
        )
        return [
            self._side(role, items, {
                metric: np.array(own, float),
                "continuations": np.array([_said(line) for line in lines]),
            })
            for own, lines in zip(values, sides, strict=True)
        ]  # fmt: skip

    def _accuracy(self, metric: str, sides) -> list[Scored] | None:
        values = self._numbers(metric, sides, _number)
        if values is None:
            return None
        self._check_shares(metric, values)
        choices = metric == "acc" and self.config.get("output_type") == "multiple_choice"
        items = tuple(
            Labelled(_asked(line), 0, document)
            for line, document in zip(sides[0], documents_of(sides[0]), strict=True)
        )
        likelihoods = [self._choices(lines) for lines in sides] if choices else []
        if choices and not np.array_equal(*(np.isneginf(side) for side in likelihoods)):
            raise EvalError(f"{self.row}: the two sides had other choices to choose from")
        scored = []
        for index, own in enumerate(values):
            arrays = {"right": np.array(own, float)}
            if choices:
                arrays["log_probabilities"] = likelihoods[index]
            scored.append(self._side("labels", items, arrays))
        return scored

    def _choices(self, lines: Sequence[Mapping]) -> np.ndarray:
        """Log-probabilities ``(documents, choices)`` among the choices; -inf where there are
        fewer."""
        rows = []
        for line in lines:
            answers = line.get("filtered_resps")
            if not isinstance(answers, list) or not answers:
                raise EvalError(f"{self.row}: document {line['doc_id']} has no filtered_resps")
            # For mutual information the choices come again, without their question.
            own = len(answers) // 2 if "acc_mutual_info" in line else len(answers)
            rows.append([float(answer[0]) for answer in answers[:own]])
        found = np.full((len(rows), max(map(len, rows))), -math.inf)
        for index, row in enumerate(rows):
            likelihoods = np.array(row)
            found[index, : len(row)] = likelihoods - np.logaddexp.reduce(likelihoods)
        return found

    def _perplexity(self, metric: str, sides) -> list[Scored] | None:
        pairs = self._numbers(metric, sides, _likelihood)
        if pairs is None:
            return None
        if any(total > ROUNDING for side in pairs for total, _ in side):
            raise EvalError(f"{self.row}: {metric} has a log-likelihood above 0")
        unit = "target" if metric == "perplexity" else metric.removesuffix("_perplexity")
        units = [[count for _, count in side] for side in pairs]
        if units[0] != units[1]:
            raise EvalError(f"{self.row}: the {unit}s of a document differ")
        documents = documents_of(sides[0])
        items = tuple(
            Text(_asked(line), document) for line, document in zip(sides[0], documents, strict=True)
        )
        windows = np.repeat(np.arange(len(items)), units[0])
        count = len(set(documents))
        protocol = f"per {unit} on {self.row}, {count} documents, by lm-eval"
        scored = []
        for side in pairs:
            # A document's loss, spread evenly over its words: sums and clusters stay as they are.
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
    """The document of each line: lines about the same passage are of one.

    lm-eval calls every line a document. The passage is looked for among the fields of ``doc``, by
    the names of :data:`evals.data.documents.PASSAGES`; where none recurs, each line is one.
    """
    docs = [doc if isinstance(doc := line.get("doc"), Mapping) else {} for line in lines]
    return numbered(passages(docs) or [None] * len(docs))


def _together(one: Scored, two: Scored) -> Scored:
    """Two scores of the same answers."""
    arrays = {**one.measurement.arrays, **two.measurement.arrays}
    return replace(one, measurement=Measurement(arrays, one.measurement.origin))


def _number(value: object) -> float | None:
    """A document's own score; before 0.4.13 some stand there as text."""
    if isinstance(value, str):
        value = {"True": 1.0, "False": 0.0}.get(value, value)
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) else None


def _likelihood(value: object) -> tuple[float, int] | None:
    """Log-likelihood in nats, and the words, bytes or targets that it is of."""
    if isinstance(value, list | tuple) and len(value) == 2:
        total, count = map(_number, value)
        if total is None or count is None or count < 1:
            return None
        return total, int(count)
    total = _number(value)
    return None if total is None else (total, 1)


def _asked(line: Mapping) -> str:
    """The prompt's end, or the text of a document."""
    arguments = line.get("arguments")
    while isinstance(arguments, Mapping | list) and arguments:
        arguments = next(iter(arguments.values() if isinstance(arguments, Mapping) else arguments))
    return str(arguments)[-_EXCERPT:]


def _said(line: Mapping) -> str:
    answers = line.get("filtered_resps")
    return str(answers[0] if isinstance(answers, list) and answers else answers)
