"""Pairs two runs of lm-evaluation-harness document by document.

Lines are paired by their hashes of document, prompt and target. Runs whose numbers are not
comparable are refused.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from compression_gates.evals.errors import EvalError
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.lm_eval.log import EvaluationLog, log_errors
from compression_gates.evals.lm_eval.sample_scores import LoggedTask, TaskReader
from compression_gates.evals.store.measurement import key_of

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_SAME = (
    ("lm_eval_version", "lm-eval"),
    ("chat_template_sha", "chat template"),
    ("system_instruction_sha", "system instruction"),
    ("fewshot_as_multiturn", "few shots as turns"),
    ("max_length", "context length"),
)
"""Settings of a run that must be the same on both sides, with their names in messages."""
_OF_MODEL = ("add_bos_token", "max_length", "prefix_token_id", "add_special_tokens")
"""Model arguments that change the measurement but are not part of any hash."""


def paired(baseline: EvaluationLog, candidate: EvaluationLog) -> list[LoggedTask]:
    """Return every task of two runs, with the scores of both sides in the same order.

    Raises:
        EvalError: tasks, versions, settings, prompts or documents differ.
    """
    with log_errors(f"{baseline.path} and {candidate.path}"):
        return _paired(baseline, candidate)


def _paired(baseline: EvaluationLog, candidate: EvaluationLog) -> list[LoggedTask]:
    _check_same_run(baseline, candidate)
    tasks = []
    for task, lines in baseline.samples.items():
        if not lines:
            raise EvalError(f"{task}: {baseline.path} has no samples")
        # Each filter of a task has a line for every document.
        blocks = [_blocks(log.samples[task]) for log in (baseline, candidate)]
        if blocks[0].keys() != blocks[1].keys():
            raise EvalError(f"{task}: the filters differ: {_both(*map(list, blocks))}")
        for name in blocks[0]:
            before, after = blocks[0][name], _in_order(task, blocks[0][name], blocks[1][name])
            row = on_one_line(task if len(blocks[0]) == 1 else f"{task}-{name}")
            reader = TaskReader(row, baseline.results["configs"][task])
            tasks += reader.read(before, after)
    return tasks


def _check_same_run(baseline: EvaluationLog, candidate: EvaluationLog) -> None:
    sides = (baseline.results, candidate.results)
    if baseline.samples.keys() != candidate.samples.keys():
        raise EvalError(f"the tasks differ: {_both(baseline.samples, candidate.samples)}")
    for key, name in _SAME:
        _check_equal(f"the runs differ in {name}", *(results.get(key) for results in sides))
    arguments = [_model_arguments(results) for results in sides]
    for key in _OF_MODEL:
        values = [side.get(key) for side in arguments]
        _check_equal(f"the runs differ in the model argument {key}", *values)
    for task in baseline.samples:
        for key in ("versions", "n-shot"):
            values = [(results.get(key) or {}).get(task) for results in sides]
            _check_equal(f"{task}: the {key.rstrip('s')} differs", *values)
        configs = [_comparable(results["configs"][task]) for results in sides]
        for key in configs[0].keys() | configs[1].keys():
            _check_equal(f"{task}: its {key} differs", *(config.get(key) for config in configs))


def _check_equal(message: str, before: object, after: object) -> None:
    """Raise an EvalError with both values if they differ."""
    if before != after:
        raise EvalError(f"{message}: {_both(before, after)}")


def _comparable(config: Mapping) -> dict[str, str]:
    """Return a task's configuration without what differs between processes: the paths of its files
    and the addresses of its functions."""
    return {
        key: _ADDRESS.sub("", json.dumps(value, sort_keys=True))
        for key, value in config.items()
        if key != "metadata"
    }


def _model_arguments(results: Mapping) -> dict:
    arguments = (results.get("config") or {}).get("model_args") or {}
    if isinstance(arguments, str):  # before 0.4.10
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    return arguments


def _both(before: object, after: object) -> str:
    shown = [
        ", ".join(map(str, side)) if isinstance(side, Mapping | list) else str(side)
        for side in (before, after)
    ]
    return f"{shown[0][:120]} for the baseline, {shown[1][:120]} for the candidate"


def _blocks(lines: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Return the lines by filter; before 0.4.7 filters have no name, and documents are repeated."""
    blocks: dict[str, list[Mapping]] = defaultdict(list)
    times: Counter = Counter()
    for line in lines:
        name = line.get("filter")
        if name is None:
            name = f"filter {times[line['doc_id']]}" if times[line["doc_id"]] else "none"
            times[line["doc_id"]] += 1
        blocks[str(name)].append(line)
    return dict(blocks)


def _in_order(task: str, before: list[Mapping], after: list[Mapping]) -> list[Mapping]:
    """Return the candidate's lines in the order of the baseline's documents.

    Raises:
        EvalError: a document, prompt or target is missing on one side.
    """
    by_key: dict[tuple, list[Mapping]] = defaultdict(list)
    for line in after:
        by_key[_key(line)].append(line)
    ordered = []
    for line in before:
        matching = by_key.get(_key(line))
        if not matching:
            raise EvalError(f"{task}: {_missing(line, after)}")
        ordered.append(matching.pop(0))
    if len(after) > len(before):
        raise EvalError(
            f"{task}: {len(before)} documents for the baseline, {len(after)} for the candidate"
        )
    return ordered


def _key(line: Mapping) -> tuple:
    """Return hashes of document, prompt and target, which some releases did not write."""
    hashes = tuple(line.get(name) for name in ("doc_hash", "prompt_hash", "target_hash"))
    if all(hashes):
        return hashes
    return tuple(key_of({"": line.get(name)}) for name in ("doc", "arguments", "target"))


def _missing(line: Mapping, others: list[Mapping]) -> str:
    """Describe what of a document is missing or different in the candidate's log."""
    where = f"document {line['doc_id']}"
    for other in others:
        before, after = _key(line), _key(other)
        if before[0] == after[0]:
            part = "prompt" if before[1] != after[1] else "target"
            return f"the {part} of {where} differs"
    return f"{where} is not in the candidate's log"
