"""Measure how engines run a baseline and a candidate: kernels, times and memory."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.formats import CustomFormat
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.measuring import Measurer
from compression_gates.evals.models.device import all_cores, timed_on
from compression_gates.evals.scoring.protocols import (
    DECODE,
    FORWARD,
    MEMORY,
    SPEED_PROTOCOLS,
    SpeedProtocol,
)
from compression_gates.evals.statistics.sequential import is_settled
from compression_gates.evals.store.measurement import Measurement

if TYPE_CHECKING:
    from compression_gates.evals.models.engine import Running
    from compression_gates.evals.models.loading import Loaded

EAGER, COMPILED = "eager", "compiled"
PROBED = 16
"""Number of tokens on which kernels are checked before quality is scored with them."""
DENSE = "dense"
"""The kernel of plain weights."""
ENGINES = (EAGER, COMPILED)
"""``eager`` runs a model as transformers does, ``compiled`` through :func:`torch.compile`."""


def kernel(
    measurer: Measurer, checkpoint: Checkpoint, baseline: Checkpoint, data: DataSet, engine: str
) -> Measurement:
    """Return the kernels that compute with a checkpoint's weights on this device.

    Args:
        checkpoint: the model.
        baseline: its baseline, or the model itself; its tokenizer encodes the data.
        data: texts on which the kernels are checked.
        engine: one of :data:`ENGINES`.

    Returns:
        The measurement with ``kernel`` and ``reason``, which is empty if the stored form can be
        run.
    """

    def run() -> Mapping[str, np.ndarray]:
        running = _prepared(measurer, checkpoint, baseline, data, engine)
        return {"kernel": np.array(running.kernel), "reason": np.array(running.reason)}

    origin = {
        **measurer.model_origin(checkpoint),
        "baseline": measurer.model_origin(baseline),
        "data": data.digest,
        "protocol": {"task": "engine", "engine": engine},
        "machine": timed_on(measurer.device),
    }
    return measurer.measure(checkpoint, origin, run)


def time_pair(
    measurer: Measurer,
    baseline: Checkpoint,
    candidate: Checkpoint,
    data: DataSet,
    limits: Sequence[float] = (),
    keep_failed: bool = False,
    workload: str = FORWARD,
    engine: str = EAGER,
) -> Measurement:
    """Time a workload of a baseline and a candidate, alone on the device and on all cores.

    Timing ends when the speedup is proven to be above or below each limit, or when its time is up.
    The store keeps a timing that proves that all limits are kept. Any other timing is repeated by
    the next call.

    Args:
        baseline, candidate: the two models.
        data: texts to run.
        limits: lower limits of the speedup.
        keep_failed: whether to keep also a timing that proves that a limit is broken, for
            candidates that are expected to fail.
        workload: ``forward`` or ``decode``.
        engine: one of :data:`ENGINES`.

    Returns:
        The measurement with ``seconds`` ``(pairs, 2)``.

    Raises:
        EvalError: both models do not fit into memory together.
    """
    protocol = SPEED_PROTOCOLS[workload]()

    def run() -> Mapping[str, np.ndarray]:
        from compression_gates.evals.scoring import speed

        if not measurer.models.fit_together(baseline, candidate):
            raise EvalError(
                "it does not fit into memory beside its baseline, which timing requires"
            )
        time_pairs = {FORWARD: speed.time_pairs, DECODE: speed.time_decoding}[workload]
        sides = [
            _prepared_to_run(measurer, side, baseline, data, engine).loaded
            for side in (baseline, candidate)
        ]
        with all_cores():
            return time_pairs(*sides, data, protocol, limits)

    def keep(arrays: Mapping[str, np.ndarray]) -> bool:
        return is_settled(arrays["seconds"], limits, keep_failed)

    origin = _pair_origin(measurer, baseline, candidate, data, engine, protocol.describe())
    origin["limits"] = sorted(limits)
    return measurer.measure(candidate, origin, run, alone=True, keep=keep)


def peak_memory(
    measurer: Measurer, baseline: Checkpoint, candidate: Checkpoint, data: DataSet, engine: str
) -> Measurement:
    """Return the peak memory of a forward pass of a baseline and a candidate.

    Returns:
        The measurement with ``bytes`` ``(2,)``; see :func:`evals.scoring.peak_memory.peak_bytes`.
    """

    def run() -> Mapping[str, np.ndarray]:
        from compression_gates.evals.scoring.peak_memory import peak_bytes
        from compression_gates.evals.scoring.speed import timed_batch

        peaks = []
        for side in (baseline, candidate):
            running = _prepared_to_run(measurer, side, baseline, data, engine)
            ids = timed_batch(measurer.models.load(baseline), data, protocol.batch_tokens)
            peaks.append(peak_bytes(running, ids))
        return {"bytes": np.array(peaks)}

    protocol = SpeedProtocol()
    described = {"task": MEMORY, "batch_tokens": protocol.batch_tokens}
    origin = _pair_origin(measurer, baseline, candidate, data, engine, described)
    return measurer.measure(candidate, origin, run, alone=True)


def scored_on(loaded: "Loaded", engine: str, formats: Sequence[CustomFormat] = ()) -> "Loaded":
    """Return a loaded model as an engine runs it, for scoring.

    Raises:
        EvalError: the engine has no kernel for its form.
    """
    import torch

    from compression_gates.evals.models.engine import prepare

    rows = loaded.model.get_input_embeddings().num_embeddings
    ids = torch.arange(min(PROBED, rows), device=loaded.device)[None]
    running = prepare(loaded, engine, ids, formats)
    if running.reason:
        raise EvalError(f"its quality cannot be scored on the engine {engine}: {running.reason}")
    return running.loaded


def _prepared(
    measurer: Measurer, checkpoint: Checkpoint, baseline: Checkpoint, data: DataSet, engine: str
) -> "Running":
    """Return a model as an engine runs it."""
    from compression_gates.evals.models.engine import prepare
    from compression_gates.evals.scoring.speed import timed_batch

    models = measurer.models
    ids = timed_batch(models.load(baseline), data, SpeedProtocol().batch_tokens)
    return prepare(models.load(checkpoint, like=baseline), engine, ids, models.formats)


def _prepared_to_run(
    measurer: Measurer, checkpoint: Checkpoint, baseline: Checkpoint, data: DataSet, engine: str
) -> "Running":
    """Return a model as an engine runs it.

    Raises:
        EvalError: its stored form cannot be run, although it could when its kernel was determined.
    """
    running = _prepared(measurer, checkpoint, baseline, data, engine)
    if running.reason:
        raise EvalError(f"{checkpoint.label}: {running.reason}")
    return running


def _pair_origin(
    measurer: Measurer,
    baseline: Checkpoint,
    candidate: Checkpoint,
    data: DataSet,
    engine: str,
    protocol: Mapping[str, object],
) -> dict[str, object]:
    """Return the origin of a measurement of both models on an engine."""
    kernels = [
        str(kernel(measurer, side, baseline, data, engine)["kernel"])
        for side in (baseline, candidate)
    ]
    return {
        **measurer.model_origin(candidate),
        "baseline": measurer.model_origin(baseline),
        "data": data.digest,
        "protocol": protocol,
        "engine": [engine, *kernels],
        "machine": timed_on(measurer.device),
    }
