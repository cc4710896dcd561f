"""A run of lm-evaluation-harness as it lies on disk.

``lm_eval run --log_samples --output_path DIR`` leaves ``results_DATE.json`` and, for each task,
``samples_TASK_DATE.jsonl``, a line for each document and filter.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.data.paths import expanded
from compression_gates.evals.data.rows import json_row
from compression_gates.evals.errors import EvalError

RESULTS = re.compile(r"(?:.+_|)results_(?P<date>.+)\.json|.+_(?P<other>\d{4}-.+)\.json")
"""Names of results files, of a folder and of ``--output_path FILE.json``."""


@dataclass(frozen=True)
class EvaluationLog:
    """One run of the harness.

    Attributes:
        path: its results file.
        results: what it says of the run.
        samples: for each task the lines of its log.
    """

    path: Path
    results: Mapping
    samples: Mapping[str, Sequence[Mapping]]


def is_log(reference: str) -> bool:
    """Whether a path holds a sample log rather than a checkpoint."""
    path = expanded(reference)
    if path.is_file():
        return path.suffix == ".json" and RESULTS.fullmatch(path.name) is not None
    if not path.is_dir() or (path / "config.json").exists():
        return False
    return any(True for _ in path.rglob("samples_*.jsonl"))


def read_log(reference: str) -> EvaluationLog:
    """A run: a results file, or the one run in a folder.

    Raises:
        EvalError: no run, more than one, or lines that are no sample log.
    """
    with told(reference):
        return _read(reference)


@contextmanager
def told(reference: str) -> Iterator[None]:
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


def _read(reference: str) -> EvaluationLog:
    path = expanded(reference)
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
    return EvaluationLog(path, results, samples)


def _lines(file: Path) -> Iterator[Mapping]:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            found = json_row(file, f"line {number}", line)
            if "doc_id" not in found or "resps" not in found:
                raise EvalError(f"{file}: line {number} is no sample of lm-eval")
            yield found
