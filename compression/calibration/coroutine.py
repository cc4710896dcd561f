"""Suspend a function in the middle of its calls, as a generator could not."""

import contextvars
import threading
from collections.abc import Callable

THREADS = "calibration"
"""Name of the threads."""


class _Closed(BaseException):
    """Ends the thread of a coroutine that is closed while it is suspended."""


class Coroutine:
    """A function in a thread of its own, which runs only while its caller waits for it.

    Exactly one of the caller and the function runs at a time. PyTorch's grad mode, function modes
    and current CUDA device belong to a thread, so the function has to set those it needs.

    Args:
        function: called without arguments; it can call :meth:`suspend`.
    """

    def __init__(self, function: Callable[[], object]):
        self.finished = False
        self.result: object = None
        self._function = function
        self._error: BaseException | None = None
        self._closing = False
        self._resumed, self._suspended = threading.Semaphore(0), threading.Semaphore(0)
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=THREADS, daemon=True
        )

    def resume(self) -> None:
        """Run the function until it suspends itself or returns, and raise its error."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._resumed.release()
        self._suspended.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def suspend(self) -> None:
        """Return to the caller until it resumes the function, which alone calls this."""
        self._suspended.release()
        self._resumed.acquire()
        if self._closing:
            raise _Closed

    def end_if_closed(self) -> None:
        """End the function, which calls this, if it was closed while it ran: an exception such as
        KeyboardInterrupt can end the wait of :meth:`resume`."""
        if self._closing and threading.current_thread() is self._thread:
            raise _Closed

    def close(self) -> None:
        """End the function where it is suspended, and wait for the end of its thread."""
        self._closing = True
        if self._thread.ident is not None:
            self._resumed.release()
            self._thread.join()

    def _run(self) -> None:
        try:
            self.result = self._function()
        except _Closed:
            pass
        except BaseException as error:  # raised again by resume
            self._error = error
        finally:
            self.finished = True
            self._function = None
            self._suspended.release()
