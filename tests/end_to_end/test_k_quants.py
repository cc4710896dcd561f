"""What the encoders of the tests write is what the gguf package reads."""

import numpy as np
import pytest

from tests.end_to_end import k_quants

gguf = pytest.importorskip("gguf")
ERRORS = {"Q2_K": 0.35, "Q3_K": 0.25, "Q4_K": 0.1, "Q5_K": 0.05, "Q6_K": 0.025}
"""Relative error that rounding to the nearest of so few values may leave of normal weights."""


@pytest.mark.parametrize("kind", k_quants.ENCODERS)
def test_weights_are_read_back(kind):
    weight = np.random.default_rng(0).normal(0, 0.02, (8, 512)).astype(np.float32)
    stored = k_quants.quantize(weight, kind)
    read = gguf.dequantize(stored, gguf.GGMLQuantizationType[kind])
    assert np.linalg.norm(read - weight) < ERRORS[kind] * np.linalg.norm(weight)
