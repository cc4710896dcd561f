"""Candidates that would hang, crash or fill the memory of a run fail in a line each, and the
healthy one among them is judged."""

import json
import os
import re
import shutil

import pytest

from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import run_gates
from tests.processes import run_forking_workers

BACKTRACKS = {"type": "Split", "pattern": {"Regex": "(a|a)*$|(a+)+$"}, "behavior": "Isolated",
              "invert": False}  # fmt: skip


def edited(name, **changes):
    def edit(folder):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


WEIGHTS, PART = "model.safetensors", "model-00001-of-00001.safetensors"


def pipe(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


HOSTILE = {
    "panics": (edited("tokenizer.json", pre_tokenizer=BACKTRACKS), "does not encode the data"),
    "layers": (edited("config.json", num_hidden_layers=2**31), "num_hidden_layers = 2147483648"),
    "wide": (edited("config.json", intermediate_size=2**40), "its configuration describes"),
    "compiles": (edited("config.json", attn_implementation="flex_attention"), "is compiled or"),
    "two-sided": (edited("config.json", is_encoder_decoder=True), "sets is_encoder_decoder"),
    "cache": (
        edited("generation_config.json", cache_implementation="quantized",
               cache_config={"nbits": 7}),
        "does not load: ValueError",
    ),
    "twice": (lambda folder: shutil.copy(folder / WEIGHTS, folder / PART), "two sets of weights"),
    "cut": (lambda folder: os.truncate(folder / WEIGHTS, 1000), "model.safetensors"),
    "pipe": (pipe, "config.json"),
}  # fmt: skip


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_the_healthy_candidate_is_judged(tmp_path, workers):
    texts = [corpus.passage("held-out", index).text for index in range(8)]
    (tmp_path / "text.txt").write_text("\n".join([*texts, "a" * 60 + "b"]))
    for name, (edit, _) in {**HOSTILE, "healthy": (lambda folder: None, "")}.items():
        shutil.copytree(MODELS / "llama-tiny", tmp_path / name)
        edit(tmp_path / name)
    done = run_gates(
        "--baseline", MODELS / "llama-tiny", "--candidate", *[tmp_path / n for n in HOSTILE],
        tmp_path / "healthy", "--text", tmp_path / "text.txt", "-k", "perplexity_drift", *workers,
        store=tmp_path / "store", run=run_forking_workers,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    assert "Traceback" not in told
    assert re.search(rf"1 passed.*, {len(HOSTILE)} errors in", done.stdout), told
    for name, (_, part) in HOSTILE.items():
        lines = [line for line in done.stdout.splitlines() if f"{name}: " in line and part in line]
        assert lines, (name, told)


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("--candidate", "~nosuchuser/model", "~nosuchuser/model: no such directory"),
        ("--candidate", "{folder}/waits", "tokenizer_config.json is not a regular file"),
        ("--text", "{folder}/pipe.txt", "pipe.txt: not a regular file"),
        ("--questions", "{folder}/pipe.jsonl", "pipe.jsonl: not a regular file"),
        ("--prompts", "{folder}/empty.jsonl", ""),  # nothing to be right about: not judged
        ("--recipes", "gptq-int4,group=" + "[" * 2000, "gptq: group = "),
        ("--profile", "~nosuchuser/profile.toml", "no such file"),
        ("--since", "{folder}/since", "is not a verdict; delete the damaged"),
    ],
)
def test_an_option_that_cannot_be_followed_is_one_line(tmp_path, option, value, line):
    for name in ("pipe.txt", "pipe.jsonl"):
        os.mkfifo(tmp_path / name)
    rows = [{"prompt": f"Where is the harbour {i}?", "response": ""} for i in range(8)]
    (tmp_path / "empty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "since").mkdir()
    (tmp_path / "since" / "report.jsonl").write_text('{"verdict": {"n": 1e999}}\n')
    (tmp_path / "text.txt").write_text("a quiet town\n")
    for name in ("healthy", "waits"):
        shutil.copytree(MODELS / "llama-tiny", tmp_path / name)
    (tmp_path / "waits" / "tokenizer_config.json").unlink()
    os.mkfifo(tmp_path / "waits" / "tokenizer_config.json")
    words = ["--baseline", MODELS / "llama-tiny", option, value.format(folder=tmp_path)]
    if option not in ("--candidate", "--recipes"):
        words += ["--candidate", tmp_path / "healthy"]
    if option in ("--candidate", "--recipes", "--profile", "--since"):
        words += ["--text", tmp_path / "text.txt"]
    done = run_gates(*words, "-k", "exact or perplexity", store=tmp_path / "store")
    told = done.stdout + done.stderr
    assert done.returncode == (4 if line else 0), told
    assert "Traceback" not in told
    assert line in told
