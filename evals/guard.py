"""Time limits, memory limits and one-line errors for code that handles untrusted input.

Checkpoints, tokenizers and chat templates are untrusted. If one fails, hangs or exhausts memory,
its candidate is reported as an error in one line, and the other candidates are still judged.
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
"""Maximum number of characters quoted from the message of a library's exception."""
_AGAIN = 5.0
"""Seconds after which a time limit is enforced again, in case a library suppressed it."""


class TimeUp(BaseException):
    """A time limit has passed. Not an ``Exception``, so that libraries do not handle it."""


@contextmanager
def guarded(
    failure: str,
    seconds: float | None = None,
    memory: int | None = None,
    passed: tuple[type[BaseException], ...] = (),
) -> Iterator[None]:
    """Convert exceptions of the block to EvalErrors, and limit its time and memory.

    Panics of libraries written in Rust, such as ``tokenizers``, are converted too, although they
    are not instances of ``Exception``. Other exceptions of that kind, such as ``KeyboardInterrupt``
    and ``SystemExit``, are raised unchanged.

    The time limit is enforced by a signal. It therefore applies only in the main thread, and
    interrupts Python code and system calls made by Python, but not native code that does not return
    to Python. :mod:`evals.checkpoints.tokenizer_trial` runs such code in a separate process.

    Args:
        failure: beginning of the error message, such as ``"PATH does not load"``.
        seconds: time limit, or None.
        memory: bytes of address space that the block may add, or None; enforced on Linux. The limit
            applies to all threads of the process.
        passed: further exceptions that are raised unchanged.

    Raises:
        EvalError: unchanged if the block raised one, else ``FAILURE: TYPE: REASON`` in one line.
    """
    try:
        with _time_limit(seconds), _memory_limit(memory):
            yield
    except (EvalError, *passed):
        raise
    except TimeUp as error:
        raise EvalError(f"{failure}: no end after {error} seconds") from error
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        logging.getLogger(__name__).debug("%s", failure, exc_info=True)
        raise EvalError(f"{failure}: {reason_of(error)}") from error


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is a panic of a library written in Rust with PyO3.

    Each such library defines its own class for panics, which derives from BaseException and cannot
    be imported.
    """
    return type(error).__name__ == "PanicException"


def reason_of(error: BaseException) -> str:
    """Return the type of an exception and at most ``REASON`` characters of its message, in one
    line."""
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
    if left and left < seconds:  # an enclosing guard has less time left
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
