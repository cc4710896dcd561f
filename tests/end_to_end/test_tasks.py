"""A candidate that answers worse fails on plain text alone, and what was not judged is said."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import compress, run_gates

BASE = MODELS / "llama-tiny"
HEALTHY = ("rtn-int8", "rtn-int4,group=32", "gptq-int4,group=32", "wanda-30")


def broken(out, layer=2):
    """Rows of one value projection scaled: perplexity +1.1 %, exact match -14 points."""
    shutil.copytree(BASE, out)
    file = out / "model.safetensors"
    file.chmod(0o644)
    weights = load_file(file)
    weights[f"model.layers.{layer}.self_attn.v_proj.weight"][:32] *= 0.3
    save_file(weights, file, metadata={"format": "pt"})
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    passages = [corpus.passage("held-out", index) for index in range(40)]
    (folder / "text.txt").write_text("\n\n".join(passage.text for passage in passages))
    lines = [json.dumps({"text": passage.text}) for passage in passages]
    (folder / "text.jsonl").write_text("\n".join(lines))
    asked = [
        json.dumps({"prompt": corpus.question_prompt(p.text, q.text), "response": q.answer})
        for p in passages[:30]
        for q in p.questions[:2]
    ]
    (folder / "asked.jsonl").write_text("\n".join(asked))
    calibration = "\n".join(corpus.passage("calibration", index).text for index in range(64))
    (folder / "calibration.txt").write_text(calibration)
    broken(folder / "broken")
    for recipe in HEALTHY:
        done = compress(recipe, "--model", BASE, "--output", folder / recipe,
                        "--data", folder / "calibration.txt")  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


def verdicts(report):
    rows = map(json.loads, (report / "report.jsonl").read_text().splitlines())
    return {
        (row["verdict"]["candidate"], row["verdict"]["metric"]): row["verdict"]
        for row in rows
        if "verdict" in row
    }


@pytest.mark.parametrize(
    ("text", "healthy"), [("text.txt", ("rtn-int4,group=32",)), ("text.jsonl", HEALTHY)]
)
def test_a_quiet_break_fails_on_text_alone_and_no_healthy_candidate_does(folder, text, healthy):
    """On one document, and on one for each line."""
    names = ["broken", *healthy]
    report = folder / f"report-{text}"
    done = run_gates(
        "--baseline", BASE, "--candidate", *(folder / name for name in names),
        "--text", folder / text, "-m", "quality", "--attribute", "none", "--report", report,
        store=folder / "store",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = verdicts(report)
    for recipe in healthy:
        own = {metric: v for (name, metric), v in found.items() if name == recipe}
        # At 30 %, Wanda is no better than its naive counterpart, nor is it proven to be worse.
        unsure = ("exact_match_drop", "naive_reference", "generation_length_change")
        assert all(v["met"] for metric, v in own.items() if metric not in unsure), own
        assert own["naive_reference"]["outcome"] != "failed"
        assert own["confident_flips"]["value"] == 0.0
        # Continuations are cut, so that an unchanged length says nothing.
        assert own["generation_length_change"]["outcome"] == "not judged"
        assert "do not end within 64 tokens" in own["generation_length_change"]["reason"]
    assert found["broken", "confident_flips"]["outcome"] == "failed"
    assert found["broken", "exact_match_drop"]["outcome"] == "not judged"
    assert "test_confident_flips[broken]" in done.stdout


def test_a_run_without_a_task_says_so_and_fails_where_proof_is_asked_for(folder):
    common = ("--baseline", BASE, "--candidate", folder / "rtn-int8", "--text",
              folder / "text.jsonl", "-k", "exact_match or perplexity")  # fmt: skip
    said = "no task was judged: give --questions or --prompts"
    done = run_gates(*common, "--report", folder / "r", store=folder / "store")
    assert done.returncode == 0, done.stdout
    assert f"not judged: {said}" in done.stdout.partition("collected")[0]
    lines = (folder / "r" / "report.md").read_text().splitlines()
    assert lines[0].startswith("**Decision: cannot tell**: only 2 of ")
    assert said in lines[0]
    assert lines[2] == f"# Gates: {said}"
    done = run_gates(*common, "--strict", store=folder / "store")
    assert done.returncode == 1
    assert "exact match not judged: there are no prompts with right answers" in done.stdout
    done = run_gates(*common, "--strict", "--prompts", folder / "asked.jsonl",
                     store=folder / "store")  # fmt: skip
    assert said not in done.stdout
    assert "EM not judged" not in done.stdout


def test_questions_judge_the_broken_candidate(folder):
    done = run_gates("--baseline", BASE, "--candidate", folder / "broken", "--prompts",
                     folder / "asked.jsonl", "-k", "exact_match",
                     store=folder / "store")  # fmt: skip
    assert done.returncode == 1
    assert "test_exact_match_drop[broken]" in done.stdout


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--questions", "x.jsonl"], "--questions needs --baseline"),
        (["--data", "x.jsonl"],
         "--data x.jsonl: give NAME=PATH; a path without a name needs --baseline"),
        (["--baseline", BASE, "--candidate", BASE, "--questions", "nowhere.jsonl"],
         "--questions nowhere.jsonl: nowhere.jsonl: no such file or folder"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_is_one_line(tmp_path, options, complaint):
    done = run_gates(*options, store=tmp_path / "store")
    assert done.returncode == 4
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
