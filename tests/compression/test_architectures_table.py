"""The command that prints the table in ``compression/README.md``, and that table."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from compression_gates import compression
from compression_gates.compression.architectures import trial
from compression_gates.compression.architectures.__main__ import (
    FAILS,
    LETTERS,
    WORSE,
    Refusals,
    main,
    row,
)
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.catalogue import METHODS

README = Path(compression.__file__).with_name("README.md")
CHEAP = {
    "modernbert": ("rtn", "magnitude", "svd"),
    "falcon": ("rtn", "heads"),
    "mamba": ("rtn", "wanda", "svd", "ffn"),
    "t5": ("rtn", "gptq", "wanda", "heads"),
    "phimoe": ("rtn", "svd", "ffn"),
    "llama4": ("log", "gptq", "movement"),
    "mobilebert": ("rtn", "heads", "ffn"),
    "funnel": ("rtn", "heads"),
    "xlnet": ("rtn", "wanda", "svdllm"),
    "ibert": ("rtn", "svd"),
    "gptj": ("log", "svd"),
}
"""A part of the table that takes seconds."""


@pytest.fixture(scope="module")
def table():
    """Cells by architecture and method, numbers replaced by their reasons."""
    text = README.read_text()
    printed = re.search(r"^\| architecture \|.*?\n\n", text, re.MULTILINE | re.DOTALL)[0]
    rows = [re.split(r" *\| *", line)[1:-1] for line in printed.strip().splitlines()]
    (_, *methods), _, *rows = rows
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    return {
        (name, method): reasons.get(cell, cell)
        for name, *cells in rows
        for method, cell in zip(methods, cells, strict=True)
    }


def test_the_table_is_whole_and_nothing_in_it_fails(table):
    assert table.keys() == {(name, method) for name in ARCHITECTURES for method in METHODS}
    assert not {FAILS, WORSE} & set(table.values())


@pytest.mark.parametrize("name", CHEAP)
def test_the_table_is_what_the_command_prints(table, name):
    refusals = Refusals()
    cells = row(name, CHEAP[name], refusals).strip("| ").split(" | ")[1:]
    for method, cell in zip(CHEAP[name], cells, strict=True):
        said = cell if cell in LETTERS.values() else refusals.reasons[int(cell) - 1]
        assert said == table[name, method], method


def test_a_name_that_is_not_known_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["lama"])
    assert stopped.value.code == 2
    assert "architecture 'lama' is not known" in capsys.readouterr().err


def test_a_method_that_breaks_is_marked_and_the_exit_code_says_so(capsys, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("no")

    monkeypatch.setattr("compression_gates.compression.architectures.trial.attempt", broken)
    assert main(["llama", "--methods", "rtn"]) == 1
    told = capsys.readouterr()
    assert f"| llama | {FAILS} |" in told.out
    assert "llama, rtn: ZeroDivisionError: no" in told.err


def test_awq_is_held_beside_rounding_alone():
    outcome = trial.attempt(ARCHITECTURES["opt"], "awq-int4")
    assert 0 < outcome.error < outcome.naive
    assert not outcome.worse
    assert replace(outcome, error=outcome.naive * 1.02).worse


def test_what_is_measured_stands_below_the_table(capsys):
    assert main(["opt", "--methods", "magnitude"]) == 0
    assert "the output of the whole model is not measured" in capsys.readouterr().out
