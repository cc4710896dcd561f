"""What lm-evaluation-harness measured: its sample logs as measurements of this suite.

``lm_eval run --log_samples --output_path DIR`` leaves ``results_DATE.json`` and, for each task,
``samples_TASK_DATE.jsonl``. A baseline's log and a candidate's are paired document by document, by
the hashes of document, prompt and target that every line holds. Read are the numbers that the
harness gave each document; nothing is scored again.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evals.bench import Scores
from evals.checkpoint import LOG, Checkpoint, json_object
from evals.data import DataSet, Item, Labelled, Prompt, Text
from evals.errors import EvalError
from evals.measurement import Measurement, key_of
from evals.reading import Scored

RESULTS = re.compile(r"(?:.+_|)results_(?P<date>.+)\.json|.+_(?P<other>\d{4}-.+)\.json")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_SHARES = {"exact_match": "exact_match_drop", "f1": "f1_drop", "rouge1": "rouge1_drop"}
_PERPLEXITIES = {"word_perplexity": "word", "byte_perplexity": "byte", "perplexity": "target"}
_SAME = (
    ("lm_eval_version", "lm-eval"),
    ("chat_template_sha", "chat template"),
    ("system_instruction_sha", "system instruction"),
    ("fewshot_as_multiturn", "few shots as turns"),
    ("max_length", "context length"),
)
"""What of a run must be the same on both sides, and how it is told."""
_OF_MODEL = ("add_bos_token", "max_length", "prefix_token_id", "add_special_tokens")
"""Model arguments that change what is measured and stand in no hash."""
_FIXED = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
          "doc_hash", "prompt_hash", "target_hash"}  # fmt: skip
ROUNDING = 1e-3
"""By which a log-likelihood may lie above 0."""
_EXCERPT = 400
"""Characters of a prompt that are kept to show where a candidate got worse."""


@dataclass(frozen=True)
class Log:
    """One run of the harness.

    Attributes:
        path: its results file.
        results: what it says of the run.
        samples: for each task the lines of its log.
    """

    path: Path
    results: Mapping
    samples: Mapping[str, Sequence[Mapping]]


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


def is_log(reference: str) -> bool:
    """Whether a path holds a sample log rather than a checkpoint."""
    path = Path(reference).expanduser()
    if path.is_file():
        return path.suffix == ".json" and RESULTS.fullmatch(path.name) is not None
    if not path.is_dir() or (path / "config.json").exists():
        return False
    return any(True for _ in path.rglob("samples_*.jsonl"))


def read_log(reference: str) -> Log:
    """A run: a results file, or the one run in a folder.

    Raises:
        EvalError: no run, more than one, or lines that are no sample log.
    """
    with _told(reference):
        return _read(reference)


@contextmanager
def _told(reference: str) -> Iterator[None]:
    """A log is data: whatever is wrong with it is told in a line."""
    try:
        yield
    except EvalError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError,
            TypeError, ValueError) as error:  # fmt: skip
        raise EvalError(
            f"{reference}: not a log of lm-eval ({type(error).__name__}: {error})"
        ) from error


def _read(reference: str) -> Log:
    path = Path(reference).expanduser()
    if path.is_dir():
        found = sorted(f for f in path.rglob("*.json") if RESULTS.fullmatch(f.name))
        if not found:
            raise EvalError(f"{reference}: no results_*.json beside its samples")
        if len(found) > 1:
            raise EvalError(
                f"{reference} holds {len(found)} runs of the harness; name one by its file, "
                f"such as {found[-1]}"
            )
        path = found[0]
    results = json_object(path)
    tasks = list(results.get("configs") or {})
    if not tasks:
        raise EvalError(f"{path}: names no task; is it a results file of lm-eval?")
    match = RESULTS.fullmatch(path.name)
    date = match["date"] or match["other"]
    samples = {}
    for task in tasks:
        file = path.with_name(f"samples_{task}_{date}.jsonl")
        if not file.is_file():
            raise EvalError(f"{path}: no {file.name} beside it; run lm-eval with --log_samples")
        samples[task] = list(_lines(file))
    return Log(path, results, samples)


def _lines(file: Path) -> Iterator[dict]:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                found = json.loads(line)
            except ValueError as error:
                raise EvalError(f"{file}: line {number} is not JSON: {error}") from error
            if not isinstance(found, dict) or "doc_id" not in found or "resps" not in found:
                raise EvalError(f"{file}: line {number} is no sample of lm-eval")
            yield found


def paired(baseline: Log, candidate: Log, label: str) -> list[Logged]:
    """Every task of two runs, with the numbers of both sides in the same order.

    Raises:
        EvalError: tasks, versions, settings, prompts or documents differ.
    """
    with _told(f"{baseline.path} and {candidate.path}"):
        return _paired(baseline, candidate, label)


def _paired(baseline: Log, candidate: Log, label: str) -> list[Logged]:
    _check_same_run(baseline, candidate)
    found = []
    for task, lines in baseline.samples.items():
        if not lines:
            raise EvalError(f"{task}: no sample in {baseline.path}")
        # Filters of a task leave its documents again, each with its own.
        blocks = [_blocks(log.samples[task]) for log in (baseline, candidate)]
        if blocks[0].keys() != blocks[1].keys():
            raise EvalError(f"{task}: the filters differ: {_both(*map(list, blocks))}")
        for name in blocks[0]:
            one, two = blocks[0][name], _in_order(task, blocks[0][name], blocks[1][name])
            row = task if len(blocks[0]) == 1 else f"{task}-{name}"
            described = _Task(row, baseline.results["configs"][task], label)
            found += described.logged(one, two)
    return found


def _check_same_run(baseline: Log, candidate: Log) -> None:
    one, two = baseline.results, candidate.results
    if baseline.samples.keys() != candidate.samples.keys():
        raise EvalError(f"the tasks differ: {_both(baseline.samples, candidate.samples)}")
    for key, told in _SAME:
        if one.get(key) != two.get(key):
            raise EvalError(f"the runs differ in {told}: {_both(one.get(key), two.get(key))}")
    arguments = [_model_arguments(log.results) for log in (baseline, candidate)]
    for key in _OF_MODEL:
        if arguments[0].get(key) != arguments[1].get(key):
            values = _both(arguments[0].get(key), arguments[1].get(key))
            raise EvalError(f"the runs differ in the model argument {key}: {values}")
    for task in baseline.samples:
        for key in ("versions", "n-shot"):
            values = [(results.get(key) or {}).get(task) for results in (one, two)]
            if values[0] != values[1]:
                raise EvalError(f"{task}: the {key.rstrip('s')} differs: {_both(*values)}")
        configs = [_comparable(results["configs"][task]) for results in (one, two)]
        for key in configs[0].keys() | configs[1].keys():
            if configs[0].get(key) != configs[1].get(key):
                values = _both(configs[0].get(key), configs[1].get(key))
                raise EvalError(f"{task}: its {key} differs: {values}")


def _comparable(config: Mapping) -> dict[str, str]:
    """A task's configuration without what differs from process to process: where its files lie,
    and the addresses of its functions."""
    return {
        key: _ADDRESS.sub("", json.dumps(value, sort_keys=True))
        for key, value in config.items()
        if key != "metadata"
    }


def _model_arguments(results: Mapping) -> dict:
    found = (results.get("config") or {}).get("model_args") or {}
    if isinstance(found, str):  # before 0.4.10
        found = dict(part.partition("=")[::2] for part in found.split(","))
    return found


def _both(one: object, two: object) -> str:
    shown = [
        ", ".join(map(str, side)) if isinstance(side, Mapping | list) else str(side)
        for side in (one, two)
    ]
    return f"{shown[0][:120]} for the baseline, {shown[1][:120]} for the candidate"


def _blocks(lines: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Lines by filter; before 0.4.7 the filter has no name, and its documents come again."""
    found: dict[str, list[Mapping]] = defaultdict(list)
    times: Counter = Counter()
    for line in lines:
        name = line.get("filter")
        if name is None:
            name = f"filter {times[line['doc_id']]}" if times[line["doc_id"]] else "none"
            times[line["doc_id"]] += 1
        found[str(name)].append(line)
    return dict(found)


def _in_order(task: str, one: list[Mapping], two: list[Mapping]) -> list[Mapping]:
    """The candidate's lines in the order of the baseline's documents.

    Raises:
        EvalError: a document, prompt or target that one side lacks.
    """
    by_key: dict[tuple, list[Mapping]] = defaultdict(list)
    for line in two:
        by_key[_key(line)].append(line)
    found = []
    for line in one:
        matching = by_key.get(_key(line))
        if not matching:
            raise EvalError(f"{task}: {_missing(line, two)}")
        found.append(matching.pop(0))
    if len(two) > len(one):
        raise EvalError(f"{task}: {len(one)} documents for the baseline, {len(two)} else")
    return found


def _key(line: Mapping) -> tuple:
    """Of document, prompt and target; of their texts where a release wrote no hashes."""
    hashes = tuple(line.get(name) for name in ("doc_hash", "prompt_hash", "target_hash"))
    if all(hashes):
        return hashes
    return tuple(key_of({"": line.get(name)}) for name in ("doc", "arguments", "target"))


def _missing(line: Mapping, others: list[Mapping]) -> str:
    """What of a document the candidate's log has otherwise."""
    where = f"document {line['doc_id']}"
    for other in others:
        one, two = _key(line), _key(other)
        if one[0] == two[0]:
            what = "prompt" if one[1] != two[1] else "target"
            return f"the {what} of {where} differs"
    return f"{where} is not in the candidate's log"


@dataclass(frozen=True)
class _Task:
    """Makes scores of the lines of one task."""

    row: str
    config: Mapping
    label: str
    facts: dict = field(default_factory=dict)

    def logged(self, one: list[Mapping], two: list[Mapping]) -> list[Logged]:
        """A row for the task, and one more for each further metric of a kind."""
        names = [name for name in one[0].get("metrics") or one[0] if name not in _FIXED]
        if "word_perplexity" in names:  # what is lost per byte is the same loss again
            names = [name for name in names if name != "byte_perplexity"]
        sides = (one, two)
        found: list[tuple[str, str, str, list]] = []  # metric, role, gate, values of both sides
        for name in names:
            made = self._scored(name, sides)
            if made is not None:
                found.append((name, *made))
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
        name = self.row if index == 0 else f"{self.row}-{row[0][0]}"
        gates = []
        sides: tuple[dict, dict] = ({}, {})
        for _, role, gate, scored in row:
            gates.append(gate)
            if role == "labels" and "choices" in scored[0].data.how:
                gates += ["flips", "js_divergence"]
            for side, one in zip(sides, scored, strict=True):
                side[role] = _together(side[role], one) if role in side else one
        weights = Measurement({}, {"log": self.row})
        checkpoint = Checkpoint(Path(), LOG, 0, self.label, form="lm-eval log")
        scores = [Scores(checkpoint, weights, **side) for side in sides]
        return Logged(name, tuple(gates), *scores, unjudged)

    def _scored(self, metric: str, sides) -> tuple[str, str, list[Scored]] | None:
        """Role, gate and both sides' numbers of a metric; None where no gate is for it."""
        if metric == "acc" or metric.startswith("acc_"):
            return self._accuracy(metric, sides)
        if metric in _SHARES:
            return self._share(metric, sides)
        if metric in _PERPLEXITIES:
            return self._perplexity(metric, sides)
        return None

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

    def _share(self, metric: str, sides) -> tuple[str, str, list[Scored]] | None:
        gate = _SHARES[metric]
        role = "summaries" if gate == "rouge1_drop" else "answers"
        values = self._numbers(metric, sides, _number)
        if values is None:
            return None  # a pair for the whole corpus, not a number for a document
        self._check_shares(metric, values)
        items = tuple(
            Prompt(_asked(line), str(line.get("target")), index)
            for index, line in enumerate(sides[0])
        )
        name = gate.removesuffix("_drop")
        scored = [
            self._side(role, items, {
                name: np.array(own, float),
                "continuations": np.array([_said(line) for line in lines]),
            })
            for own, lines in zip(values, sides, strict=True)
        ]  # fmt: skip
        return role, gate, scored

    def _accuracy(self, metric: str, sides) -> tuple[str, str, list[Scored]] | None:
        values = self._numbers(metric, sides, _number)
        if values is None:
            return None
        self._check_shares(metric, values)
        choices = metric == "acc" and self.config.get("output_type") == "multiple_choice"
        items = tuple(Labelled(_asked(line), 0, index) for index, line in enumerate(sides[0]))
        likelihoods = [self._choices(lines) for lines in sides] if choices else []
        if choices and not np.array_equal(*(np.isneginf(side) for side in likelihoods)):
            raise EvalError(f"{self.row}: the two sides had other choices to choose from")
        scored = []
        for index, own in enumerate(values):
            arrays = {"right": np.array(own, float)}
            if choices:
                arrays["log_probabilities"] = likelihoods[index]
            scored.append(self._side("labels", items, arrays, {"choices": True} if choices else {}))
        return "labels", "accuracy_drop", scored

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

    def _perplexity(self, metric: str, sides) -> tuple[str, str, list[Scored]] | None:
        pairs = self._numbers(metric, sides, _likelihood)
        if pairs is None:
            return None
        if any(total > ROUNDING for side in pairs for total, _ in side):
            raise EvalError(f"{self.row}: {metric} has a log-likelihood above 0")
        units = [[count for _, count in side] for side in pairs]
        if units[0] != units[1]:
            raise EvalError(f"{self.row}: the {_PERPLEXITIES[metric]}s of a document differ")
        items = tuple(Text(_asked(line), index) for index, line in enumerate(sides[0]))
        documents = np.repeat(np.arange(len(items)), units[0])
        told = f"per {_PERPLEXITIES[metric]} on {self.row}, {len(items)} documents, by lm-eval"
        scored = []
        for side in pairs:
            # A document's loss, spread evenly over its words: sums and clusters stay as they are.
            nll = np.concatenate([np.full(count, -total / count) for total, count in side])
            arrays = {
                "nll": nll,
                "tokens": np.zeros(len(nll), int),
                "window": documents,
                "cluster": documents,
                "window_text": np.array([item.text for item in items]),
                "windowing": np.zeros(2, int),
            }
            scored.append(self._side("text", items, arrays, {"told": told}))
        return "text", "perplexity_drift", scored

    def _side(
        self, role: str, items: tuple[Item, ...], arrays: Mapping[str, np.ndarray],
        how: Mapping[str, object] = {},
    ) -> Scored:  # fmt: skip
        data = DataSet(self.row, items, dict(how))
        return Scored(data, Measurement(arrays, {"data": key_of({"row": self.row, "role": role})}))


def _together(one: Scored, two: Scored) -> Scored:
    """Two scores of the same answers."""
    arrays = {**one.measurement.arrays, **two.measurement.arrays}
    return Scored(one.data, Measurement(arrays, one.measurement.origin))


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
