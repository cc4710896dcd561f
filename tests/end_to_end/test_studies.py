"""The profiles of both studies: read without a hub, and run with a shipped model in their place."""

import json

import pytest

from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import compress

STUDIES = {
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "bert-sst2": "textattack/bert-base-uncased-SST-2",
    "albert-sst2": "textattack/albert-base-v2-SST-2",
    "roberta-sst2": "textattack/roberta-base-SST-2",
}


@pytest.mark.parametrize(("profile", "model"), STUDIES.items())
def test_a_plan_reads_a_study_without_its_model_and_its_data(gates, profile, model):
    done = gates("--profile", profile, "--plan")
    assert done.returncode == 0, done.stdout
    assert f"{model} is on the hub and was not downloaded" in done.stdout
    assert "recipes  " in done.stdout
    assert "  data     " in done.stdout


def rows_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# The profiles differ only in their model; a plan reads all of them.
OTHERS = [pytest.param(kind, marks=pytest.mark.full) for kind in ("albert", "roberta")]


@pytest.mark.parametrize("kind", ["bert", *OTHERS])
def test_study_001_runs_on_a_shipped_encoder_and_local_files(gates, tmp_path, kind):
    reviews = [corpus.review("held-out", index) for index in range(300)]
    file = rows_of(tmp_path / "reviews.jsonl",
                   [{"sentence": item.text, "label": item.label} for item in reviews])  # fmt: skip
    copies = [f"{name}={file}" for name in ("validation", "calibration", "training")]
    done = gates("--profile", f"{kind}-sst2", "--baseline", f"{kind}-tiny", "--data", *copies,
                 "-k", "rtn-int8 and not activations and not svdllm")  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "rtn-int8" in done.stdout


def test_study_000_runs_on_the_shipped_causal_model_and_local_files(gates, tmp_path):
    passages = [corpus.passage("held-out", index) for index in range(16)]
    texts = rows_of(tmp_path / "texts.jsonl", [{"text": p.text} for p in passages])
    questions = rows_of(
        tmp_path / "questions.jsonl",
        [
            {"question": q.text, "context": p.text, "answers": {"text": [q.answer]}}
            for p in passages
            for q in p.questions[:1]
        ],
    )
    alpaca = rows_of(
        tmp_path / "alpaca.jsonl",
        [{"instruction": "Say it.", "input": "", "output": p.summary} for p in passages],
    )
    long = tmp_path / "instructions.jsonl"
    long.write_text(alpaca.read_text() * 626)  # the profile leaves 10,000 rows to calibration
    done = gates(
        "--profile", "llama-2-7b", "--baseline", "llama-tiny", "-k", "perplexity and wanda-50",
        "--data", f"wikitext-2={texts}", f"questions={questions}", f"instructions={long}",
        f"c4={texts}", f"alpaca={alpaca}",
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout
    assert "llama-tiny-wanda-50-alpaca" in done.stdout or "wanda-50-alpaca" in done.stdout
    assert "in windows of 512 tokens, 512 apart, the last one left out" in done.stdout
    assert "one document (rows of a table are documents of their own), in windows" in done.stdout
    assert "ERROR" not in done.stdout


@pytest.mark.full  # the profile differs from llama-2-7b in its data
def test_the_study_of_a_small_model_reads_local_files(gates, tmp_path):
    """The questions are plain text; the passages are summarized through the chat template."""
    passages = [corpus.passage("held-out", index) for index in range(450)]
    texts = rows_of(tmp_path / "texts.jsonl", [{"text": p.text} for p in passages])
    questions = rows_of(
        tmp_path / "questions.jsonl",
        [
            {"question": p.questions[0].text, "context": p.text,
             "answers": {"text": [p.questions[0].answer]}}
            for p in passages
        ],
    )  # fmt: skip
    done = gates(
        "--profile", "smollm2", "--baseline", "llama-tiny", "-k", "perplexity and wanda-50-task",
        "--data", f"wikitext={texts}", f"general-calibration={texts}", f"questions={questions}",
        f"passages={questions}", f"task-calibration={questions}",
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout
    assert "wanda-50-task" in done.stdout
    assert "chat        passages: each prompt is a user message" in done.stdout
    assert "questions: each prompt is a user message" not in done.stdout
    assert "ERROR" not in done.stdout


CHAT = """
[data.questions]
path = "{path}"
columns = {{ prompt = "asked", response = "said" }}
chat = true

[[suite]]
kind = "causal"
baselines = ["llama-tiny"]
recipes = ["rtn-int8"]
answers = "questions"

[suite.gates]
exact_match_drop = 0.02
"""


def test_an_instruct_model_is_asked_through_its_template(gates, tmp_path):
    """Without it the shipped model would not know that it is its turn."""
    rows = []
    for index in range(40):
        passage = corpus.passage("held-out", index)
        question = passage.questions[0]
        asked = f"{passage.text}\nQuestion: {question.text}"
        rows.append({"asked": asked, "said": question.answer})
    file = rows_of(tmp_path / "chat.jsonl", rows)
    (tmp_path / "chat.toml").write_text(CHAT.format(path=file))
    done = gates("--profile", tmp_path / "chat.toml", "--report", tmp_path)
    assert done.returncode == 0, done.stdout
    assert "chat        questions: each prompt is a user message" in done.stdout
    rows = map(json.loads, (tmp_path / "report.jsonl").read_text().splitlines())
    judged = (row for row in rows if "verdict" in row)
    row = next(row for row in judged if row["verdict"]["metric"] == "exact_match_drop")
    assert row["verdict"]["baseline"] == 1.0


def test_what_got_worse_since_a_report(gates, tmp_path):
    """The nightly comparison: the same night finds nothing, a broken candidate stands out."""
    review = [corpus.review("held-out", index) for index in range(400)]
    file = rows_of(tmp_path / "r.jsonl", [{"sentence": r.text, "label": r.label} for r in review])
    common = ["--profile", "bert-sst2", "--baseline", "bert-tiny", "-k", "flips", "--data",
              f"validation={file}", f"calibration={file}", f"training={file}"]  # fmt: skip
    healthy, broken = tmp_path / "healthy", tmp_path / "broken"
    for recipe, out in (("magnitude-20", healthy), ("magnitude-95", broken)):
        out.mkdir()
        done = compress(recipe, "--model", MODELS / "bert-tiny", "--output", out / "student")
        assert done.returncode == 0, done.stderr
    gates(*common, "--candidate", healthy / "student", "--report", tmp_path / "night")
    again = gates(*common, "--candidate", healthy / "student", "--since", tmp_path / "night")
    assert "nothing got worse beyond noise in 1 gate, 1 compared item by item" in again.stdout
    worse = gates(*common, "--candidate", broken / "student", "--since", tmp_path / "night")
    assert "since       WORSE (Holm" in worse.stdout
    assert "student flips" in worse.stdout
