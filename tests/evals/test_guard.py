"""The guard converts exceptions to one-line errors, and limits time and memory."""

import signal
import time

import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.guard import TimeUp, guarded


class PanicException(BaseException):
    """A stand-in for the exception of a library written in Rust."""


@pytest.mark.parametrize(
    "error",
    [ValueError("two\nlines\x1b[31m"), RecursionError(), MemoryError(), PanicException("at once"),
     OSError(28, "No space left"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_any_error_is_one_printable_line(error):
    with pytest.raises(EvalError) as caught, guarded("it fails"):
        raise error
    message = str(caught.value)
    assert message.startswith(f"it fails: {type(error).__name__}: ")
    assert message.isprintable()


def test_a_real_panic_of_tokenizers():
    from tokenizers import Tokenizer, models

    def encode():
        tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
        tokenizer.enable_truncation(2)
        tokenizer.no_truncation()
        return tokenizer.from_str(
            '{"version":"1.0","added_tokens":[],"normalizer":null,"post_processor":null,'
            '"decoder":null,"pre_tokenizer":null,"padding":null,"model":{"type":"BPE","vocab":'
            '{"a":0},"merges":[]},"truncation":{"direction":"Right","max_length":2,"strategy":'
            '"LongestFirst","stride":9}}'
        ).encode("aaaaaaa")

    with pytest.raises(EvalError, match="PanicException"), guarded("it fails"):
        encode()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, pytest.fail.Exception])
def test_what_ends_a_session_passes(error):
    with pytest.raises(error), guarded("it fails", seconds=5):
        raise error("stop")


def test_own_errors_and_those_that_are_named_pass():
    with pytest.raises(EvalError, match=r"^as it is$"), guarded("it fails"):
        raise EvalError("as it is")
    with pytest.raises(KeyError), guarded("it fails", passed=(KeyError,)):
        raise KeyError("as it is")


@pytest.mark.parametrize(
    "wait",
    [lambda: looping(), lambda: time.sleep(60), lambda: swallowing()],
    ids=["loop", "sleep", "swallowed"],
)
def test_a_time_limit(wait, monkeypatch):
    monkeypatch.setattr("compression_gates.evals.guard._AGAIN", 0.1)
    start = time.monotonic()
    with pytest.raises(EvalError, match="it fails: no end after"), guarded("it fails", 0.2):
        wait()
    assert time.monotonic() - start < 20
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def looping():
    while True:
        pass


def swallowing():
    """Suppress the first two time limits."""
    for _ in range(2):
        try:
            time.sleep(60)
        except TimeUp:
            continue
    time.sleep(60)


def test_the_shorter_of_two_limits_holds_and_the_outer_one_goes_on():
    def within(seconds):
        with pytest.raises(EvalError, match="inner: no end"), guarded("inner", seconds):
            time.sleep(30)
        time.sleep(30)

    for seconds in (0.1, 300):
        with pytest.raises(EvalError, match="outer: no end"), guarded("outer", 0.6):
            within(seconds)


def test_a_memory_limit_holds_for_the_block_alone():
    with pytest.raises(EvalError, match="it fails: MemoryError"), guarded("it fails", 60, 1 << 28):
        bytearray(1 << 30)
    assert len(bytearray(1 << 29)) == 1 << 29
