"""The Triton kernel against the computation on the CPU, through Triton's interpreter."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

CHECK = """
import math, torch
from compression_gates.evals.scoring.comparison import score_logits
from compression_gates.evals.scoring.comparison_kernel import scored_by_kernel

generator = torch.Generator().manual_seed(0)
for size, other, scale, noise in [
    (2, 2, 3, 1), (50, 50, 0, 0.1), (5000, 5000, 3, 0), (5000, 5000, 40, 10), (640, 576, 3, 1),
    (576, 640, 3, 1),
]:
    for dtype in (torch.float32, torch.bfloat16):
        width = max(size, other)
        a = torch.randn(5, width, generator=generator) * scale
        b = (a + torch.randn(5, width, generator=generator) * noise)[:, :other].to(dtype)
        a = a[:, :size].to(dtype)
        a[1, 1] = b[1, 1] = -math.inf
        a[2, 1] = -math.inf
        b[3, 1] = math.nan
        targets = torch.zeros(5, dtype=torch.long)
        for given in ((None, b, targets), (a, b, targets)):
            computed, expected = scored_by_kernel(*given), score_logits(b, targets, given[0])
            if given[0] is not None:
                assert not computed[:, 5][[0, 1, 4]].ne(expected[:, 5][[0, 1, 4]]).any()
                computed, expected = computed[:, :5], expected[:, :5]
                if not noise:
                    assert not computed[[0, 1, 4], 1:].any()
            torch.testing.assert_close(computed, expected, rtol=0, atol=1e-6, equal_nan=True)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernel_equals_the_computation_on_the_cpu():
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip().endswith("equal"), done.stderr
