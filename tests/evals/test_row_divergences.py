"""Divergences of log-probabilities against scipy, as tensors and as arrays."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr

from compression_gates.evals.scoring.divergence import divergences


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_those_of_scipy(kind, dtype):
    logits = np.random.default_rng(0).normal(0, 5, (2, 20, 9))
    log_p, log_q = log_softmax(logits, axis=-1).astype(dtype)
    log_p[0, 0] = log_q[0, 0] = log_q[1, 1] = -np.inf  # zero in both rows, and in one
    log_q[2] = log_p[2]
    found = [np.asarray(value) for value in divergences(kind(log_p), kind(log_q))]
    p, q = np.exp(log_p, dtype=np.float64), np.exp(log_q, dtype=np.float64)
    for value, expected in zip(
        found, (None, rel_entr(p, q).sum(-1), rel_entr(q, p).sum(-1)), strict=True
    ):
        assert value.dtype == np.float64
        assert value[2] == 0
        if expected is not None:
            np.testing.assert_allclose(value, expected.clip(0), rtol=0, atol=1e-9)
    assert np.isinf(found[1][1])
    normalized = [x / x.sum(-1, keepdims=True) for x in (p[3:], q[3:])]
    js = jensenshannon(*normalized, axis=-1) ** 2
    np.testing.assert_allclose(found[0][3:], js, rtol=0, atol=1e-6)
    assert (found[0] <= np.log(2) + 1e-9).all()
