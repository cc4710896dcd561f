"""The folder ``compression`` does not hide the package ``compression`` of the standard library.

That package exists since Python 3.14; the root of a clone can precede it on ``sys.path``.
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


def test_standard_library_package_is_importable(tmp_path):
    package = tmp_path / "stdlib" / "compression"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""Replaces the standard library."""\n')
    (package / "zstd.py").write_text('NAME = "zstd"\n')
    (tmp_path / "stdlib" / "gzip_like.py").write_text("from compression.zstd import NAME\n")
    for paths in ([ROOT, package.parent], [package.parent, ROOT]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT, *map(str, paths)],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.stdout == "both\n", done.stderr
