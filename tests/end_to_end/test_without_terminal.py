"""``-p no:terminal`` changes neither the exit code nor the decision nor the outputs of a run."""

import pytest

from tests.end_to_end.conftest import TWO_RECIPES

PROFILE = (
    TWO_RECIPES
    + """
[suite.gates]
flips = {{ limit = 0.3, tier = "supporting" }}
compression_ratio = {{ limit = {limit} }}

[[suite.known_failures]]
candidates = ["bert-tiny-magnitude-90"]
gates = ["compression_ratio"]
reason = "it is stored densely"
"""
)
DECIDED = ("decision    ", "FAILED: ", "ERROR: ", "candidates  ")


@pytest.mark.parametrize(
    ("limit", "options", "code"),
    [
        (2.0, (), 0),
        (2.0, ("--strict",), 1),
        (9.0, (), 1),
        (2.0, ("--strict", "-k", "no-such"), 5),
        (2.0, ("--plan",), 0),
    ],
)
def test_the_terminal_reporter_decides_nothing(gates, tmp_path, limit, options, code):
    profile = tmp_path / "mine.toml"
    profile.write_text(PROFILE.format(limit=limit))
    words = ["--profile", profile, *options]
    shown = gates(*words, "--report", tmp_path / "shown")
    quiet = gates(*words, "--report", tmp_path / "quiet", "-p", "no:terminal")
    assert shown.returncode == quiet.returncode == code, quiet.stdout + quiet.stderr
    kept = [line for line in shown.stdout.splitlines() if line.startswith(DECIDED)]
    assert [line for line in quiet.stdout.splitlines() if line.startswith(DECIDED)] == kept
    assert kept or "--plan" in options
    assert ("flips" in quiet.stdout) == ("flips" in shown.stdout)
    texts = [list(map(_head, tmp_path.glob(f"{name}/report.md"))) for name in ("shown", "quiet")]
    assert texts[0] == texts[1]


def _head(file):
    return file.read_text().splitlines()[0]
