"""Fresh processes, which hang, end or fill their memory without harm to others.

They are forked from a server that has imported everything and computed nothing: a process that has
threads cannot be forked.
"""

import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from compression_gates.fixtures.suite.cases import USER_ERRORS

SECONDS = 60
"""For one input, on a machine that is busy with others."""
MEMORY = 16 << 30
"""Bytes of address space for what an input makes."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "compression_gates.evals.models.loading",
        "compression_gates.fixtures.suite.lab",
        "compression_gates.compression.checkpoint.own_format",
    ]
)


class HangError(BaseException):
    """An input that took too long."""


def start(target: Callable, *arguments: object) -> multiprocessing.Process:
    """A process that calls ``target``, which can be pickled."""
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def result_of(target: Callable, *arguments: object) -> object:
    """What ``target`` returns in a process of its own."""
    reader, writer = _CONTEXT.Pipe(duplex=False)
    process = start(_send, writer, target, arguments)
    writer.close()
    try:
        return reader.recv()
    finally:
        process.join()


def _send(writer: Connection, target: Callable, arguments: tuple) -> None:
    writer.send(target(*arguments))


def failures(name: str, seed: int, numbers: Iterable[int], make: Callable, *arguments) -> list[str]:
    """What goes wrong when ``make(*arguments)`` is called with a generator for each number.

    Args:
        name, seed: what the generators follow from.
        numbers: of the inputs.
        make: gives what is called; what a user can put right may be raised by that.
    """
    reader, writer = _CONTEXT.Pipe(duplex=False)
    process = start(_run_all, writer, name, seed, list(numbers), make, arguments)
    writer.close()
    found, last = [], "none"
    while True:
        if not reader.poll(2 * SECONDS):
            process.kill()
            return [*found, f"input {last}: did not end within {SECONDS} seconds"]
        try:
            number, told = reader.recv()
        except EOFError:
            process.join()
            return [*found, f"input {last}: ended the process ({process.exitcode})"]
        if number is None:
            process.join()
            return found
        last = number
        if told:
            found.append(f"input {number}: {told}")


def _run_all(writer, name, seed, numbers, make, arguments) -> None:
    signal.signal(signal.SIGALRM, _hang)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    call = make(*arguments)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for number in numbers:
        writer.send((number, ""))
        signal.alarm(SECONDS)
        try:
            call(Random(f"{name} {seed} {number}"))
        except USER_ERRORS as error:
            if not str(error).strip() or "Traceback" in str(error):
                writer.send((number, f"told as {str(error)!r}"))
        except BaseException:
            writer.send((number, traceback.format_exc(limit=-6)))
        finally:
            signal.alarm(0)
    writer.send((None, ""))


def _hang(*_) -> None:
    raise HangError
