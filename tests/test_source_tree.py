"""The source tree: no file is too long, and names of modules and classes are unique."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
PRODUCT = ("compression", "evals", "fixtures")
SAME_ROLE = {"__init__.py", "__main__.py", "errors.py", "step.py"}
"""Names of modules with the same role in several folders."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def places(names: list[tuple[str, Path]]) -> dict[str, list[str]]:
    """Return the files of each name that occurs more than once."""
    found = defaultdict(list)
    for name, path in names:
        found[name].append(str(path.relative_to(ROOT)))
    return {name: files for name, files in found.items() if len(files) > 1}


@pytest.mark.parametrize("folder", [*PRODUCT, "tests"])
def test_no_file_has_more_than_400_lines(folder):
    lengths = {str(path): path.read_text().count("\n") for path in sources(folder)}
    assert lengths
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_no_two_modules_share_a_name():
    assert places([(p.name, p) for p in sources(*PRODUCT) if p.name not in SAME_ROLE]) == {}


def test_no_two_classes_share_a_name():
    names = [
        (node.name, path)
        for path in sources(*PRODUCT)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert len(names) > 100
    assert places(names) == {}
