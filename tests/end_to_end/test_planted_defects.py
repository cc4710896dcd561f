"""The catalogue through the real command line: every defect is caught, no healthy recipe fails."""

import json
import re

from compression_gates.fixtures.defects.defects import DEFECTS


def test_every_planted_defect_is_caught_and_no_healthy_recipe_fails(gates, tmp_path):
    done = gates("--profile", "planted-defects", "--report", tmp_path / "report")
    assert done.returncode == 0, done.stdout
    caught = re.search(r"defects +(\d+) of (\d+) caught; .* (\d+) of (\d+)", done.stdout)
    found, planted, alone, asked = map(int, caught.groups())
    assert found == planted == len(DEFECTS)
    # Perplexity alone lets some of them through, which is why there are other gates.
    assert alone < asked
    assert "family      no alarm" in done.stdout
    rows = map(json.loads, (tmp_path / "report" / "report.jsonl").read_text().splitlines())
    assert {row["defect"] for row in rows if "defect" in row} == set(DEFECTS)
    assert "| layer-doubled" in (tmp_path / "report" / "report.md").read_text()
