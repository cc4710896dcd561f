"""Scores that are made by hand."""

import numpy as np

from compression_gates.evals.data.items import DataSet
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.store.measurement import Measurement

ORIGIN = {"data": "d", "protocol": "p", "environment": "e", "code": "c"}


def logits(seed: int, *shape: int, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * spread


def scored(items, **arrays) -> Scored:
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    if "continuations" in arrays:
        arrays.setdefault("finite", np.ones(len(items), bool))
    if "window" in arrays:
        arrays.setdefault("cluster", arrays["window"])
    return Scored(DataSet("d", tuple(items)), Measurement(arrays, ORIGIN))
