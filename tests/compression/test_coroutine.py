"""A function that is suspended in the middle of its calls."""

import signal
import threading

import pytest

from compression_gates.compression.calibration.coroutine import THREADS, Coroutine


def alive() -> bool:
    return THREADS in [thread.name for thread in threading.enumerate()]


def test_caller_and_function_take_turns():
    events = []

    def function():
        events.append("first")
        coroutine.suspend()
        events.append("second")
        return "result"

    coroutine = Coroutine(function)
    assert not alive()
    coroutine.resume()
    events.append("caller")
    assert not coroutine.finished
    coroutine.resume()
    assert events == ["first", "caller", "second"]
    assert coroutine.finished
    assert coroutine.result == "result"


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(3)])
def test_errors_are_raised_in_the_caller(error):
    def function():
        coroutine.suspend()
        raise error

    coroutine = Coroutine(function)
    coroutine.resume()
    with pytest.raises(type(error)) as caught:
        coroutine.resume()
    assert caught.value is error
    assert any(entry.name == "function" for entry in caught.traceback)
    coroutine.close()
    assert not alive()


def test_closing_runs_clean_up_and_ends_the_thread():
    events = []

    def function():
        try:
            coroutine.suspend()
        except Exception:
            events.append("caught")
        finally:
            events.append("clean-up")
        events.append("continued")

    coroutine = Coroutine(function)
    coroutine.resume()
    assert alive()
    coroutine.close()
    assert events == ["clean-up"]
    assert not alive()


def test_closing_before_the_start_and_after_the_end():
    coroutine = Coroutine(lambda: None)
    coroutine.close()
    coroutine = Coroutine(lambda: None)
    coroutine.resume()
    coroutine.close()
    assert coroutine.finished
    assert not alive()


def test_an_interrupted_caller_can_close_a_running_function():
    started, proceed = threading.Event(), threading.Event()
    events = []

    def function():
        started.set()
        proceed.wait(10)
        coroutine.suspend()
        events.append("continued")

    coroutine = Coroutine(function)

    class Interrupted:
        """In place of the semaphore for which the caller waits."""

        def acquire(self):
            started.wait(10)
            raise KeyboardInterrupt

        def release(self):
            pass

    coroutine._suspended = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        coroutine.resume()
    threading.Timer(0.1, proceed.set).start()
    coroutine.close()
    assert not events
    assert not alive()


def test_a_function_that_is_closed_while_it_runs_ends_at_its_next_check():
    may_go_on, ended = threading.Event(), []

    def function():
        may_go_on.wait()
        coroutine.end_if_closed()
        ended.append("it ran to its end")

    def interrupt(*_):
        raise KeyboardInterrupt

    coroutine = Coroutine(function)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            coroutine.resume()
    finally:
        signal.signal(signal.SIGALRM, before)
    threading.Timer(0.05, may_go_on.set).start()
    coroutine.close()
    assert coroutine.finished
    assert not ended
