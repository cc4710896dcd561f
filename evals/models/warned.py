"""What libraries warn of, and how they fail, while a model is loaded."""

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
"""Time limit of loading: a fixed part, and the least speed."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOADERS = ("transformers", "compressed_tensors", "peft", "gptqmodel", "optimum", "bitsandbytes")
"""Libraries that speak of the checkpoint; others speak of the machine, once in a process."""
_HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that Python itself does not show by default."""


class _Collector(logging.Handler):
    def __init__(self, found: list[str]):
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in _LOADERS:
            self._found.append(record.getMessage())


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Collects what is logged as a warning or worse, and what goes through ``warnings``, in place
    of having it printed.

    Yields:
        A list that is filled when the block ends: a line each, no line twice.
    """
    found: list[str] = []
    library = transformers_logging.get_logger("transformers")
    handlers, verbosity = list(library.handlers), transformers_logging.get_verbosity()
    root, collector = logging.getLogger(), _Collector(found)
    level = root.level
    transformers_logging.warning_once.cache_clear()  # told of this model, whatever was before it
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
        told = [*found, *(str(warning.message) for warning in caught)]
        lines += dict.fromkeys(" ".join(_COLOUR.sub("", text).split()) for text in told)


@contextmanager
def explained(checkpoint: Checkpoint) -> Iterator[list[str]]:
    """Keeps the loaders' logs and bars off the terminal, and puts their errors in one line.

    Yields:
        A list that is filled with the loaders' warnings when the block ends, a line each.
    """
    told: list[str] = []
    seconds = LOAD_SECONDS + checkpoint.weight_bytes / LOAD_BYTES_PER_SECOND
    with (
        recorded_warnings() as warned,
        guarded(f"{checkpoint.path} does not load", seconds),
        redirect_stderr(io.StringIO()),
        redirect_stdout(io.StringIO()),
    ):
        yield told
    place = str(checkpoint.path)
    told += [on_one_line(text.replace(place, "the checkpoint"))[:REASON] for text in warned]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the terminal and out of reports whatever libraries log, warn of or print: what they
    quote of a checkpoint may hold escape sequences and commands to a CI runner."""
    root = logging.getLogger()
    with recorded_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        handlers = root.handlers
        root.handlers = [logging.NullHandler()]
        try:
            yield
        finally:
            root.handlers = handlers
