"""The profiles of both studies: read without a hub, and run with a shipped model in their place."""

import json

import pytest

from fixtures import corpus

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
    assert f"{model} is on the hub and was not fetched" in done.stdout
    assert "recipes  " in done.stdout
    assert "  data     " in done.stdout


def rows_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["bert", "albert", "roberta"])
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
    passages = [corpus.passage("held-out", index) for index in range(40)]
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
    long.write_text(alpaca.read_text() * 251)  # the profile leaves 10,000 rows to calibration
    done = gates(
        "--profile", "llama-2-7b", "--baseline", "llama-tiny", "-k", "perplexity and wanda-50",
        "--data", f"wikitext-2={texts}", f"questions={questions}", f"instructions={long}",
        f"c4={texts}", f"alpaca={alpaca}",
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout
    assert "llama-tiny-wanda-50-alpaca" in done.stdout or "wanda-50-alpaca" in done.stdout
    assert "one document, in windows of 512 tokens, 512 apart, the last one left out" in done.stdout
    assert "ERROR" not in done.stdout
