"""Runs many inputs in a process of their own, so that one that hangs or ends it harms no test."""

import os
import resource
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from compression_gates.fixtures.suite.cases import USER_ERRORS
from tests.processes import pipe, start

SECONDS = 60
"""For one input, on a machine that is busy with others; the time limits of the code under test
that are shorter end in a result or a line of their own."""
START_SECONDS = 300
"""For what is made once, before the first input."""
MEMORY = 16 << 30
"""Bytes of address space for what an input makes."""


@dataclass
class Outcome:
    """What became of many inputs.

    Attributes:
        tried: number of inputs.
        reached: number of those that ended in a result, not in a line that says why there is none.
        failures: what went wrong, a text each.
    """

    tried: int = 0
    reached: int = 0
    failures: list[str] = field(default_factory=list)


def run_each(name: str, seed: int, numbers: Iterable[int], make: Callable, *arguments) -> Outcome:
    """Calls ``make(*arguments)`` with a generator for each number, in a process of its own.

    The limit of time of an input is kept from outside of that process: code under test that sets
    an alarm of its own would replace one that is set around it. An input that passes the limit is
    the last.

    Args:
        name, seed: what the generators follow from.
        numbers: of the inputs.
        make: gives what is called; what a user can put right may be raised by that.
    """
    reader, writer = pipe()
    process = start(_run_all, writer, name, seed, list(numbers), make, arguments)
    writer.close()
    found, last, seconds = Outcome(), "none", START_SECONDS
    while True:
        if not reader.poll(seconds):
            process.kill()
            process.join()
            found.failures.append(f"input {last}: did not end within {seconds} seconds")
            return found
        try:
            event, number, text = reader.recv()
        except EOFError:
            process.join()
            found.failures.append(f"input {last}: ended the process ({process.exitcode})")
            return found
        match event:
            case "end":
                process.join()
                return found
            case "start":
                found.tried += 1
                last, seconds = number, SECONDS
            case "reached":
                found.reached += 1
            case "failure":
                found.failures.append(f"input {number}: {text}")


def _run_all(writer, name, seed, numbers, make, arguments) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    call = make(*arguments)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for number in numbers:
        writer.send(("start", number, ""))
        try:
            call(Random(f"{name} {seed} {number}"))
        except USER_ERRORS as error:
            if not str(error).strip() or "Traceback" in str(error):
                writer.send(("failure", number, f"told as {str(error)!r}"))
        except BaseException:
            writer.send(("failure", number, traceback.format_exc(limit=-6)))
        else:
            writer.send(("reached", number, ""))
    writer.send(("end", None, ""))
