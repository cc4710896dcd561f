"""Small runs for the tests of the history."""

import numpy as np

from compression_gates.evals.gates.gate import Gate, verdict_of
from compression_gates.evals.history.runs import StoredCase, StoredRun
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.statistics.estimate import exact
from compression_gates.evals.statistics.item_values import MEAN, SCORE_CHANGE, ItemValues

ORIGIN = {"baseline": "b", "data": "d", "protocol": "p"}


def run_at(day: int, exit_status: int = 0, **changes) -> StoredRun:
    fields = {
        "time": f"2026-11-{day:02}T02:00:00Z", "commit": f"{day:08x}" + "0" * 32, "branch": "main",
        "machine": "cpu, 2", "device": "cpu", "python": "3.11.7", "torch": "2.13.0",
        "transformers": "5.17.0", "package": "0.1.0", "policy": "default", "profile": "nightly",
        "profile_digest": "f" * 64,
    }  # fmt: skip
    return StoredRun(**{**fields, **changes}, exit_status=exit_status)


def case_of(
    values, candidate="model", metric="exact_match_drop", limit=0.02, baseline=0.9, passed=True,
    known="", **origin,
) -> StoredCase:  # fmt: skip
    """A case with the values of its items."""
    values = np.asarray(values, np.float32)
    kind = MEAN if metric == "js_divergence" else SCORE_CHANGE
    units, ones = np.arange(len(values), dtype=np.int32), np.ones(len(values), np.int32)
    items = ItemValues(kind, values, ones, units, ORIGIN | origin)
    result = MetricResult(items.estimate(), baseline, baseline)
    verdict = verdict_of(candidate, Gate(metric, limit), result)
    return StoredCase.of(verdict, "base", passed, known, {"baseline": "b"}, items)


def size_of(ratio: float, candidate="model") -> StoredCase:
    """A case that was counted."""
    result = MetricResult(exact(ratio), 1000.0, 1000.0 / ratio)
    verdict = verdict_of(candidate, Gate("compression_ratio", 0.9), result)
    return StoredCase.of(verdict, "base", True, "", {"baseline": "b"})
