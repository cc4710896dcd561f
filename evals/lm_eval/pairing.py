"""Two runs of lm-evaluation-harness, document by document.

They are paired by the hashes of document, prompt and target that every line holds; what would make
their numbers incomparable is refused.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.lm_eval.log import EvaluationLog, told
from compression_gates.evals.lm_eval.scores import Logged, TaskReader
from compression_gates.evals.store.measurement import key_of

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
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


def paired(baseline: EvaluationLog, candidate: EvaluationLog) -> list[Logged]:
    """Every task of two runs, with the numbers of both sides in the same order.

    Raises:
        EvalError: tasks, versions, settings, prompts or documents differ.
    """
    with told(f"{baseline.path} and {candidate.path}"):
        return _paired(baseline, candidate)


def _paired(baseline: EvaluationLog, candidate: EvaluationLog) -> list[Logged]:
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
            row = on_one_line(task if len(blocks[0]) == 1 else f"{task}-{name}")
            reader = TaskReader(row, baseline.results["configs"][task])
            found += reader.logged(one, two)
    return found


def _check_same_run(baseline: EvaluationLog, candidate: EvaluationLog) -> None:
    one, two = baseline.results, candidate.results
    if baseline.samples.keys() != candidate.samples.keys():
        raise EvalError(f"the tasks differ: {_both(baseline.samples, candidate.samples)}")
    for key, what in _SAME:
        if one.get(key) != two.get(key):
            raise EvalError(f"the runs differ in {what}: {_both(one.get(key), two.get(key))}")
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
