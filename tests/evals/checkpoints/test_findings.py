"""Findings can be stored, and a single table defines the severities of their kinds."""

import subprocess
import sys
from pathlib import Path

import pytest

from compression_gates.evals.checkpoints import findings
from compression_gates.evals.checkpoints.findings import (
    KINDS,
    CheckpointComparison,
    Finding,
    Severity,
)

ONE = CheckpointComparison((Finding("tokens", "a"),), ("tokens",), {"template": "there is none"})
TWO = CheckpointComparison((Finding("normalization", "b"),), ("tokens", "configuration"))


def test_a_comparison_can_be_stored():
    assert CheckpointComparison.from_json(ONE.to_json()) == ONE


def test_comparisons_are_joined_in_order():
    both = CheckpointComparison.joined([ONE, TWO])
    assert both.of(Severity.REFUSED) == ["a"]
    assert both.of(Severity.FAILED) == ["b"]
    assert both.compared == ("tokens", "configuration")
    assert both.not_compared == {"template": "there is none"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_its_reason(kind):
    assert KINDS[kind].reason.endswith(".")


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="unknown kind of difference: 'new'"):
        Finding("new", "text")
    forged = ONE.to_json().replace('"kind": "tokens"', '"kind": "new"')
    with pytest.raises(ValueError, match="unknown kind of difference: 'new'"):
        CheckpointComparison.from_json(forged)


def test_the_readme_contains_the_table_that_the_command_prints():
    command = [sys.executable, "-m", findings.__name__]
    root = Path(__file__).parents[3]
    printed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert all(f"| {kind} |" in printed for kind in KINDS)
    assert f"\n\n{printed}" in (root / "evals" / "README.md").read_text()
