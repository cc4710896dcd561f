"""The name ``compression`` beside a standard library that has it, as Python 3.14's does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STDLIB_FIRST = """
import compression, gzip_like
assert "stdlib" in compression.__file__, compression.__file__
"""
OURS_FIRST = """
sys.path.insert(0, root)
import compression.recipe
assert compression.__file__.startswith(root)
import gzip_like
"""
SCRIPT = """
import sys
root, stdlib = sys.argv[1:]
sys.path.insert(0, stdlib)
{first}
if root not in sys.path:
    sys.path.insert(0, root)
import conftest
from compression.recipe import Recipe
from compression.zstd import NAME
import compression.zstd, gzip_like
assert Recipe.parse("wanda-50").steps[0].method == "wanda"
assert NAME == gzip_like.NAME == "zstd"
print("both")
"""


@pytest.mark.parametrize("first", [STDLIB_FIRST, OURS_FIRST], ids=["stdlib-first", "ours-first"])
def test_both_orders_of_import_work(tmp_path, first):
    package = tmp_path / "stdlib" / "compression"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Stands in for the standard library\'s."""\n')
    (package / "zstd.py").write_text('NAME = "zstd"\n')
    (tmp_path / "stdlib" / "gzip_like.py").write_text("from compression.zstd import NAME\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT.format(first=first), str(ROOT), package.parent],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "both\n", done.stderr
