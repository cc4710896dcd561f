"""The catalogue through the real command line: every defect is caught, no healthy recipe fails."""

import re

from fixtures.defects import DEFECTS


def test_every_planted_defect_is_caught_and_no_healthy_recipe_fails(gates):
    done = gates("--profile", "planted-defects")
    assert done.returncode == 0, done.stdout
    caught = re.search(r"defects +(\d+) of (\d+) caught; .* (\d+) of (\d+)", done.stdout)
    found, planted, alone, asked = map(int, caught.groups())
    assert found == planted == len(DEFECTS)
    # Perplexity alone lets some of them through, which is why there are other gates.
    assert alone < asked
    assert "family      no alarm" in done.stdout
