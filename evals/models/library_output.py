"""Capture what libraries print, log and warn about, and convert their exceptions, while loading."""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from transformers.utils import logging as transformers_logging

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.guard import REASON, guarded

LOAD_SECONDS, LOAD_BYTES_PER_SECOND = 300, 1 << 22
"""Time limit of loading: a fixed part, and the minimum speed that determines the rest."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOADERS = ("transformers", "compressed_tensors", "peft", "gptqmodel", "optimum", "bitsandbytes")
"""Libraries whose log messages are about the checkpoint; those of others are about the machine."""
_HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that Python does not show by default."""


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]):
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in _LOADERS:
            self._messages.append(record.getMessage())


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Collect log messages of level WARNING or above, and Python warnings, and do not show them.

    Yields:
        A list that is filled on exit: one line per message, without duplicates.
    """
    messages: list[str] = []
    library = transformers_logging.get_logger("transformers")
    handlers, verbosity = list(library.handlers), transformers_logging.get_verbosity()
    root, collector = logging.getLogger(), _Collector(messages)
    level = root.level
    # Warnings that were shown once for another model must be shown again for this one.
    transformers_logging.warning_once.cache_clear()
    transformers_logging.set_verbosity_warning()
    library.handlers = [collector]
    root.addHandler(collector)
    lines: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for category in _HIDDEN:
                warnings.simplefilter("ignore", category)
            yield lines
    finally:
        root.removeHandler(collector)
        root.setLevel(level)
        library.handlers = handlers
        transformers_logging.set_verbosity(verbosity)
        messages += [str(warning.message) for warning in caught]
        lines += dict.fromkeys(" ".join(_COLOUR.sub("", text).split()) for text in messages)


@contextmanager
def load_guard(checkpoint: Checkpoint, warned: list[str] | None = None) -> Iterator[None]:
    """Limit the time of loading, suppress output, and convert exceptions to one-line EvalErrors.

    New warnings of the loaders are appended to ``warned`` on exit, one line each.
    """
    seconds = LOAD_SECONDS + checkpoint.weight_bytes / LOAD_BYTES_PER_SECOND
    with (
        recorded_warnings() as recorded,
        guarded(f"{checkpoint.path} does not load", seconds),
        redirect_stderr(io.StringIO()),
        redirect_stdout(io.StringIO()),
    ):
        yield
    if warned is not None:
        path = str(checkpoint.path)
        lines = [on_one_line(text.replace(path, "the checkpoint"))[:REASON] for text in recorded]
        warned += [line for line in lines if line not in warned]


@contextmanager
def quiet() -> Iterator[None]:
    """Discard everything that libraries print, log and warn about.

    Their messages may quote a checkpoint, and so contain escape sequences and commands to a CI
    runner.
    """
    root = logging.getLogger()
    with recorded_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        handlers = root.handlers
        root.handlers = [logging.NullHandler()]
        try:
            yield
        finally:
            root.handlers = handlers
