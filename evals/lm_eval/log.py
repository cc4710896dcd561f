"""Reads the logs of a run of lm-evaluation-harness.

``lm_eval run --log_samples --output_path DIR`` writes ``results_DATE.json`` and, for each task,
``samples_TASK_DATE.jsonl`` with one line per document and filter.
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
"""Names of results files, with ``--output_path`` as a folder and as ``FILE.json``."""


@dataclass(frozen=True)
class EvaluationLog:
    """One run of the harness.

    Attributes:
        path: of the results file.
        results: content of the results file.
        samples: the lines of the sample log by task.
    """

    path: Path
    results: Mapping
    samples: Mapping[str, Sequence[Mapping]]


def is_log(reference: str) -> bool:
    """Return whether a path is a sample log rather than a checkpoint."""
    path = expanded(reference)
    if path.is_file():
        return path.suffix == ".json" and RESULTS.fullmatch(path.name) is not None
    if not path.is_dir() or (path / "config.json").exists():
        return False
    return any(True for _ in path.rglob("samples_*.jsonl"))


def read_log(reference: str) -> EvaluationLog:
    """Read a run, given its results file or a folder with a single run.

    Raises:
        EvalError: there is no run or more than one, or the log is damaged.
    """
    with log_errors(reference):
        return _read(reference)


@contextmanager
def log_errors(reference: str) -> Iterator[None]:
    """Convert the exceptions of a damaged log into an EvalError."""
    try:
        yield
    except EvalError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError,
            TypeError, ValueError) as error:  # fmt: skip
        raise EvalError(
            f"{reference}: not a valid log of lm-eval ({type(error).__name__}: {error})"
        ) from error


def _read(reference: str) -> EvaluationLog:
    path = expanded(reference)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.json") if RESULTS.fullmatch(file.name))
        if not files:
            raise EvalError(f"{reference}: there are samples, but no results_*.json")
        if len(files) > 1:
            raise EvalError(
                f"{reference} contains {len(files)} runs; give the results file of one, such as "
                f"{files[-1]}"
            )
        path = files[0]
    results = json_object(path)
    tasks = list(results.get("configs") or {})
    if not tasks:
        raise EvalError(f"{path}: no tasks; is it a results file of lm-eval?")
    match = RESULTS.fullmatch(path.name)
    date = match["date"] or match["other"]
    samples = {}
    for task in tasks:
        file = path.with_name(f"samples_{task}_{date}.jsonl")
        if not file.is_file():
            raise EvalError(f"{path}: {file.name} is missing; run lm-eval with --log_samples")
        samples[task] = list(_lines(file))
    return EvaluationLog(path, results, samples)


def _lines(file: Path) -> Iterator[Mapping]:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            row = json_row(file, f"line {number}", line)
            if "doc_id" not in row or "resps" not in row:
                raise EvalError(f"{file}: line {number} is not a sample of lm-eval")
            yield row
