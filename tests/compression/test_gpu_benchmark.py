"""The benchmark for a GPU runs in small on a CPU, and fails where there is no GPU."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from tests.processes import run_module


def run(*options: str) -> subprocess.CompletedProcess:
    return run_module("tests.benchmarks.gpu", options, Path(__file__).parents[2])


def test_in_small():
    process = run("--small")
    assert process.returncode == 0, process.stderr
    for line in ("inverse factor", "gptq-int4,act_order", "bare pass", "wanda-50", "scoring"):
        assert re.search(rf"^{line} .* \d+\.\d+ m?s", process.stdout, re.MULTILINE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu():
    process = run()
    assert process.returncode == 1
    assert "not run: there is no CUDA device" in process.stderr
