"""Runs many damaged inputs, each of which must end in a result or in one line that says why not.

    python -m pytest tests/fuzz                          a few of each kind
    python -m pytest tests/fuzz --fuzz-examples 10000    that many of each kind

Inputs follow from ``--fuzz-seed``. A failure names the number of its input;
``--fuzz-only NUMBER`` runs that one alone.
"""

import pytest

from tests.fuzz.children import failures


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "damaged inputs")
    group.addoption("--fuzz-examples", type=int, metavar="N", help="inputs of each kind")
    group.addoption(
        "--fuzz-seed", type=int, metavar="N", help="what they are drawn by (default: 0)"
    )
    group.addoption("--fuzz-only", type=int, metavar="N", help="the number of the only input")


@pytest.fixture
def option(request):
    """``option(name)``: an option of this folder, which only its own command line knows."""
    return lambda name: getattr(request.config.option, name, None)


@pytest.fixture
def each(request, option):
    """``each(short, make, *arguments)`` calls ``make(*arguments)``, in a process of its own, with a
    generator for each of ``short`` inputs, or of as many as ``--fuzz-examples`` asks for."""

    def run(short: int, make, *arguments) -> None:
        only = option("fuzz_only")
        numbers = range(option("fuzz_examples") or short) if only is None else [only]
        found = failures(request.node.name, option("fuzz_seed") or 0, numbers, make, *arguments)
        assert not found, f"{len(found)} inputs; the first:\n\n" + "\n\n".join(found[:5])

    return run
