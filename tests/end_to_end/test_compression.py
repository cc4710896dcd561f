"""``compression-gates compress`` as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

from compression_gates.compression.catalogue import METHODS
from compression_gates.fixtures.world import corpus
from compression_gates.fixtures.world.shipped import MODELS
from tests.end_to_end.conftest import compress


@pytest.fixture
def reviews(tmp_path):
    rows = [corpus.review("calibration", index) for index in range(64)]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(json.dumps({"text": r.text, "label": r.label}) for r in rows))
    return path


def test_compress_and_gate(gates, reviews, tmp_path):
    out = tmp_path / "out"
    done = compress(
        "svdllm-60+rtn-int8", "--model", MODELS / "bert-tiny", "--output", out, "--data", reviews
    )
    assert done.returncode == 0, done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if "  " in line)
    assert told["recipe"] == "svdllm-60+rtn-int8"
    assert "x smaller" in told["weights"]
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(corpus.review("held-out", i).text for i in range(100)))
    gated = gates("--baseline", MODELS / "bert-tiny", "--candidate", out, "--text", texts,
                  "-m", "quality")  # fmt: skip
    assert gated.returncode == 0, gated.stdout
    assert "4 passed" in gated.stdout


def test_list_contains_every_method():
    done = compress("--list")
    assert done.returncode == 0
    for name, method in METHODS.items():
        assert name in done.stdout
        assert method.source in done.stdout
        assert all(f"{setting}: " in done.stdout for setting in method.settings)


def test_shipped_model_by_name(tmp_path):
    words = ("magnitude-50", "--model", "bert-tiny", "--output", tmp_path / "out")
    done = compress(*words)
    assert done.returncode == 0, done.stderr
    assert "compression-gates --baseline bert-tiny" in done.stdout


def test_closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "compression_gates", "compress", "--list"]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


def test_usage_error(tmp_path):
    done = compress("wanda-50", "--model", MODELS / "bert-tiny", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    told = "compression-gates compress: error: wanda-50 needs texts; give --data FILE\n"
    assert done.stderr == told
