"""The folder ``compression`` of a clone beside a standard library that has a package of that name.

Since Python 3.14 it has, and a clone's root may be on ``sys.path`` before it.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
import gzip_like, compression.zstd
from compression_gates.compression.recipe import Recipe
assert Recipe.parse("wanda-50").steps[0].method == "wanda"
assert compression.zstd.NAME == gzip_like.NAME == "zstd"
print("both")
"""


def test_the_standard_library_finds_its_own(tmp_path):
    package = tmp_path / "stdlib" / "compression"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Stands in for the standard library\'s."""\n')
    (package / "zstd.py").write_text('NAME = "zstd"\n')
    (tmp_path / "stdlib" / "gzip_like.py").write_text("from compression.zstd import NAME\n")
    for paths in ([ROOT, package.parent], [package.parent, ROOT]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT, *map(str, paths)],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.stdout == "both\n", done.stderr
