"""Whether a tokenizer encodes the data at all, tried where it can do no harm.

``tokenizer.json`` is a program: regular expressions that backtrack without end, replacements that
multiply a text, settings that the library aborts on. The library is native code, which no signal
interrupts and which may end the whole process, so a process of its own tries it first.
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
"""Time limit: a fixed part, and the least speed. Tokenizers encode a megabyte a second."""
_MEMORY, _MEMORY_PER_BYTE = 4 << 30, 2000
"""Memory limit: a fixed part, and per byte of text."""
_tried: dict[str, str] = {}
"""What went wrong, by the hash of a tokenizer and texts: most candidates have their baseline's."""


def check_encoding(checkpoint: Checkpoint, data: Iterable[DataSet]) -> None:
    """Raises an EvalError where the tokenizer of a checkpoint fails, hangs or takes too much
    memory on the texts of the data and on the fixed ones. Tokenizers without a ``tokenizer.json``
    are not tried."""
    folder = checkpoint.tokenizer
    if folder is None:
        return
    read_files(folder, weights=False)  # refuses what is no file in the folder
    file = folder / FILE
    if file.is_file():
        texts = dict.fromkeys([*TEXTS.values(), *(text for one in data for text in _texts(one))])
        asked = json.dumps(list(texts)).encode()
        key = sha256(file.read_bytes() + asked).hexdigest()
        if key not in _tried:
            _tried[key] = _problem(file, asked)
        if reason := _tried[key]:
            raise EvalError(f"{file} does not encode the data: {reason}")


def _texts(data: DataSet) -> list[str]:
    expected = [item.expected for item in data.items if isinstance(item, Prompt | Question)]
    return [*map(input_text, data.items), *expected]


def _problem(file: Path, asked: bytes) -> str:
    """What goes wrong with texts in JSON, or nothing."""
    seconds = _SECONDS + len(asked) // _BYTES_PER_SECOND
    memory = _MEMORY + _MEMORY_PER_BYTE * len(asked)
    one_thread = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_SCRIPT), str(file), str(memory)],
            input=asked, capture_output=True, timeout=seconds, env={**os.environ, **one_thread},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end after {seconds:,} seconds"
    if done.returncode < 0:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        name = signal.Signals(-done.returncode).name
        return f"its process ended by {name}" + (f" ({told[-1][:200]})" if told else "")
    return done.stdout.decode(errors="replace").strip() if done.returncode else ""
