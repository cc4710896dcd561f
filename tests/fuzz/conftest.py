"""Runs many damaged inputs, each of which must end in a result or in one line that says why not.

    python -m pytest tests/fuzz                          a few of each kind
    python -m pytest tests/fuzz --fuzz-examples 10000    that many of each kind

Inputs follow from ``--fuzz-seed``. A failure names the number of its input;
``--fuzz-only NUMBER`` runs that one alone.
"""

import os
import time

import pytest

from tests.fuzz.children import run_each
from tests.processes import result_of


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "damaged inputs")
    group.addoption("--fuzz-examples", type=int, metavar="N", help="inputs of each kind")
    group.addoption(
        "--fuzz-seed", type=int, metavar="N", help="what they are drawn by (default: 0)"
    )
    group.addoption("--fuzz-only", type=int, metavar="N", help="the number of the only input")


@pytest.fixture(scope="session")
def measured_store(tmp_path_factory):
    """A folder with a store, the numbers that are measured with it, and the seconds that it took.
    Tests leave it as it is."""
    from tests.fuzz.small import numbers_of

    folder = tmp_path_factory.mktemp("measured")
    result_of(os.getpid)  # so that the server of processes has started
    begun = time.monotonic()
    numbers = result_of(numbers_of, folder)
    return folder, numbers, time.monotonic() - begun


@pytest.fixture
def option(request):
    """``option(name)``: an option of this folder, which only its own command line knows."""
    return lambda name: getattr(request.config.option, name, None)


@pytest.fixture
def each(request, option):
    """``each(short, make, *arguments, share)`` calls ``make(*arguments)``, in a process of its own,
    with a generator for each of ``short`` inputs, or of as many as ``--fuzz-examples`` asks for.

    At least a ``share`` of the inputs has to end in a result, so that the fuzzing does not stop at
    the first check of a reader. It is 0 where almost any damage is rightly refused; ``make`` then
    fails unless the undamaged input ends in a result.
    """

    def run(short: int, make, *arguments, share: float) -> None:
        only, seed = option("fuzz_only"), option("fuzz_seed") or 0
        numbers = range(option("fuzz_examples") or short) if only is None else [only]
        found = run_each(request.node.name, seed, numbers, make, *arguments)
        failures = found.failures
        assert not failures, f"{len(failures)} inputs; the first:\n\n" + "\n\n".join(failures[:5])
        print(f"{found.reached} of {found.tried} inputs ended in a result")
        if share and only is None:
            # Of a few inputs all may be refused by chance, but not for the default seed.
            assert found.reached >= (int(share * found.tried) or int(seed == 0))

    return run
