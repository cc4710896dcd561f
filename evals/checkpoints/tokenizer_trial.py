"""Trial encoding of the data by a tokenizer, in a separate process.

``tokenizer.json`` can contain regular expressions that backtrack without end, replacements that
multiply a text, and settings that abort the library. The library is native code, which a signal
does not interrupt and which can end the whole process. A separate process therefore tries it first.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.files import read_files
from compression_gates.evals.checkpoints.stress import TEXTS
from compression_gates.evals.data.items import DataSet, Prompt, Question, input_text
from compression_gates.evals.errors import EvalError

FILE = "tokenizer.json"
_SCRIPT = Path(__file__).with_name("tokenizer_trial_script.py")
_SECONDS, _BYTES_PER_SECOND = 60, 20_000
"""Time limit: a fixed part, and a minimum speed. Tokenizers usually encode 1 MB per second."""
_MEMORY, _MEMORY_PER_BYTE = 4 << 30, 2000
"""Memory limit: a fixed part, and a part per byte of text."""
_problems: dict[str, str] = {}
"""Problems by the hash of tokenizer and texts; most candidates share the baseline's tokenizer."""


def check_encoding(checkpoint: Checkpoint, data: Iterable[DataSet]) -> None:
    """Check that a checkpoint's tokenizer encodes the data and the fixed texts.

    Tokenizers without a ``tokenizer.json`` are not checked.

    Raises:
        EvalError: the tokenizer fails, or exceeds the limit of time or memory.
    """
    folder = checkpoint.tokenizer
    if folder is None:
        return
    read_files(folder, weights=False)  # refuses links out of the folder
    file = folder / FILE
    if not file.is_file():
        return
    texts = dict.fromkeys([*TEXTS.values(), *(text for one in data for text in _texts(one))])
    request = json.dumps(list(texts)).encode()
    key = sha256(file.read_bytes() + request).hexdigest()
    if key not in _problems:
        _problems[key] = _problem(file, request)
    if problem := _problems[key]:
        raise EvalError(f"{file} does not encode the data: {problem}")


def _texts(data: DataSet) -> list[str]:
    expected = [item.expected for item in data.items if isinstance(item, Prompt | Question)]
    return [*map(input_text, data.items), *expected]


def _problem(file: Path, request: bytes) -> str:
    """Return why the texts of a JSON list cannot be encoded; empty if they can."""
    seconds = _SECONDS + len(request) // _BYTES_PER_SECOND
    memory = _MEMORY + _MEMORY_PER_BYTE * len(request)
    one_thread = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        process = subprocess.run(
            [sys.executable, "-I", str(_SCRIPT), str(file), str(memory)],
            input=request, capture_output=True, timeout=seconds, env={**os.environ, **one_thread},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end after {seconds:,} seconds"
    if process.returncode < 0:
        lines = process.stderr.decode(errors="replace").strip().splitlines()
        name = signal.Signals(-process.returncode).name
        return f"its process ended by {name}" + (f" ({lines[-1][:200]})" if lines else "")
    return process.stdout.decode(errors="replace").strip() if process.returncode else ""
