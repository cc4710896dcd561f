"""A green run claims no more than it saw: no-ops, headers and data are told in its report."""

import json
import shutil

from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end import foreign
from tests.end_to_end.conftest import run_gates
from tests.end_to_end.test_formats import verdicts_in

NOTHING_COMPRESSED = """
[data.reviews]
source = "reviews"
count = 40

[[suite]]
kind = "classifier"
baselines = ["bert-tiny"]
recipes = ["magnitude-0", "rtn-int8"]
labels = "reviews"

[suite.gates]
accuracy_drop = 0.1
"""


def test_a_recipe_that_changed_nothing_is_said_first(tmp_path):
    (tmp_path / "p.toml").write_text(NOTHING_COMPRESSED)
    done = run_gates("--profile", tmp_path / "p.toml", "--report", tmp_path / "report",
                     store=tmp_path / "store")  # fmt: skip
    assert done.returncode == 0, done.stdout
    told = "candidate bert-tiny-magnitude-0 has the same weights as the baseline bert-tiny"
    report = (tmp_path / "report" / "report.md").read_text()
    assert report.startswith("**Decision: cannot tell**: ")
    assert report.splitlines()[2] == f"# Gates: {told}"
    assert f"unchanged   {told}" in done.stdout
    assert "bert-tiny-rtn-int8 has the same" not in done.stdout
    assert "coverage    labels (reviews): " in done.stdout
    lines = (tmp_path / "report" / "report.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    [found] = [row["coverage"] for row in rows if "coverage" in row]
    assert (found["baseline"], found["data"], found["context"]) == ("bert-tiny", "reviews", 66)
    assert found["positions"] <= found["longest"] < 66
    assert found["scripts"] == {"Latin": 1.0}


def test_rope_scaling_of_a_gguf_file_is_refused_where_it_is_dropped_and_fails_where_it_is_lost(
    tmp_path,
):
    import gguf

    def yarn(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(512)

    shutil.copytree(MODELS / "llama-tiny", tmp_path / "base")
    file = tmp_path / "base" / "config.json"
    file.chmod(0o644)
    scaling = dict(rope_type="yarn", factor=4.0, rope_theta=1e4,
                   original_max_position_embeddings=512)  # fmt: skip
    config = json.loads(file.read_text()) | {
        "max_position_embeddings": 2048, "rope_parameters": scaling
    }  # fmt: skip
    file.write_text(json.dumps(config))
    base = tmp_path / "base"
    scaled = foreign.gguf("Q8_0", yarn)(base, tmp_path / "scaled")
    unscaled = foreign.gguf("Q8_0")(base, tmp_path / "unscaled")
    (tmp_path / "text.txt").write_text(corpus.passage("held-out", 0).text)
    done = run_gates("--baseline", base, "--candidate", scaled, unscaled,
                     "--text", tmp_path / "text.txt", "--report", tmp_path / "report",
                     "-k", "perplexity_drift or artifact_differences",
                     store=tmp_path / "store")  # fmt: skip
    assert done.returncode == 1
    assert (
        "transformers does not load the rope scaling of model.gguf (yarn, factor 4" in done.stdout
    )
    rows = verdicts_in(tmp_path / "report")
    assert not any(row["passed"] for (name, _), row in rows.items() if name == str(scaled))
    assert not rows[str(unscaled), "artifact_differences"]["passed"]
    assert "the rope scaling is yarn" in rows[str(unscaled), "artifact_differences"]["text"]
