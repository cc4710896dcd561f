"""One guard around whatever opens, loads, encodes or runs what others made.

A checkpoint, its tokenizer and its chat template are untrusted input: one that fails, hangs or
takes all memory must end in one line for its candidate, while the other candidates are judged.
"""

import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compression_gates.evals.errors import EvalError

REASON = 300
"""Characters that are told of a library's own error."""
_AGAIN = 5.0
"""Seconds after which a time limit is enforced again, where a library has swallowed it."""


class TimeUp(BaseException):
    """A time limit has passed. No ``Exception``, so that no library takes it for one of its own."""


@contextmanager
def guarded(
    what: str,
    seconds: float | None = None,
    memory: int | None = None,
    passed: tuple[type[BaseException], ...] = (),
) -> Iterator[None]:
    """Raises an EvalError in place of whatever else goes wrong in its block.

    This includes panics of libraries written in Rust, such as ``tokenizers``, which are no
    ``Exception``. ``KeyboardInterrupt``, ``SystemExit`` and the outcomes of a test framework pass.

    The time limit is enforced by a signal, so it holds in the main thread alone, and it interrupts
    Python code and system calls that Python makes. Native code that does not return to Python is
    not interrupted: :mod:`evals.checkpoints.tokenizer_trial` runs what can hang there in a process
    of its own.

    Args:
        what: begins the line, such as ``"PATH does not load"``.
        seconds: time limit, or None.
        memory: bytes of address space that the block may add, on Linux, or None. For code that
            runs in one thread: another thread of the process runs out of memory as well.
        passed: further exceptions that are raised as they are.

    Raises:
        EvalError: of the block as it is; of anything else ``WHAT: TYPE: REASON`` in one line.
    """
    try:
        with _time_limit(seconds), _memory_limit(memory):
            yield
    except (EvalError, *passed):
        raise
    except TimeUp as error:
        raise EvalError(f"{what}: no end after {error} seconds") from error
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        logging.getLogger(__name__).debug("%s", what, exc_info=True)
        raise EvalError(f"{what}: {reason_of(error)}") from error


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a library written in Rust with PyO3.

    Each such library has a class of its own for it, which derives from BaseException and cannot be
    imported.
    """
    return type(error).__name__ == "PanicException"


def reason_of(error: BaseException) -> str:
    """An error of a library in one line of at most ``REASON`` characters behind its type."""
    text = "".join(c if c.isprintable() else " " for c in str(error)[: 10 * REASON])
    return f"{type(error).__name__}: {' '.join(text.split())[:REASON] or 'no reason given'}"


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: object) -> None:
        raise TimeUp(f"{limit:,.0f}")

    limit, start = seconds, time.monotonic()
    handler = signal.signal(signal.SIGALRM, end)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    if left and left < seconds:  # of a guard around this one
        limit = left
        signal.setitimer(signal.ITIMER_REAL, left, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            remaining = left - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(remaining, 1e-3), interval)


@contextmanager
def _memory_limit(memory: int | None) -> Iterator[None]:
    pages = Path("/proc/self/statm")
    if memory is None or not pages.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(pages.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
