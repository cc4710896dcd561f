"""A baseline's predictions, that those of its candidates are compared with.

They are read from files, for which the baseline has been run once, or computed by the baseline
beside its candidate.
"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch.nn import functional as F

from compression_gates.evals.errors import EvalError
from compression_gates.evals.scoring.baseline_files import BaselineFiles
from compression_gates.evals.scoring.head import TRANSFORMS, Head, Predictor
from compression_gates.evals.scoring.prediction_table import PredictionTable, TableWriter, blocks
from compression_gates.evals.store.measurement import DamagedError

STATES, LOGITS = "states", "logits"
"""What the rows of a table are: last hidden states, or logits."""
Ranges = Sequence[tuple[int, int]]
"""The first row and the end of each window of a batch."""
Pieces = Iterator[tuple[slice, torch.Tensor | None]]
"""Consecutive rows of a batch, and the baseline's logits for them if there is a baseline."""


def _parts(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


class StoredStates:
    """Last hidden states in a table, and the head."""

    def __init__(self, table: PredictionTable, head: Head, device: torch.device):
        self._table, self._head, self._device = table, head, device

    def pieces(
        self, inputs: Mapping[str, object], index: torch.Tensor, ranges: Ranges, step: int
    ) -> Pieces:
        """Yield the logits of a batch.

        Args:
            inputs: the inputs of a model.
            index: ``(rows,)``, the position of each predicted token among all tokens of the batch.
            ranges: the rows of the batch's windows in the text.
            step: number of rows of a piece.
        """
        states = torch.cat([self._table.window(*window) for window in ranges]).to(self._device)
        for part in _parts(len(states), step):
            yield part, self._head(states[part])


class StoredLogits:
    """Logits in a table. See :class:`StoredStates` for the arguments."""

    def __init__(self, table: PredictionTable, device: torch.device):
        self._table, self._device = table, device

    def pieces(
        self, inputs: Mapping[str, object], index: torch.Tensor, ranges: Ranges, step: int
    ) -> Pieces:
        first = 0
        for window in ranges:
            for start, stop in blocks(*window, self._table.shape[1]):
                part = slice(first, first + stop - start)
                yield part, self._table.rows(start, stop).to(self._device)
                first = part.stop


class RunBeside:
    """The baseline itself, run on each batch. See :class:`StoredStates` for the arguments."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor

    def pieces(
        self, inputs: Mapping[str, object], index: torch.Tensor, ranges: Ranges, step: int
    ) -> Pieces:
        outputs = self._predictor.run(inputs)
        for part in _parts(len(index), step):
            yield part, self._predictor.logits(outputs[index[part].to(outputs.device)])


class NoBaseline:
    """Stands for the predictions of a baseline where there is none. See :class:`StoredStates` for
    the arguments."""

    def pieces(
        self, inputs: Mapping[str, object], index: torch.Tensor, ranges: Ranges, step: int
    ) -> Pieces:
        return ((part, None) for part in _parts(len(index), step))


@contextmanager
def stored_predictions(
    files: BaselineFiles, device: torch.device
) -> Iterator[tuple[StoredStates | StoredLogits, int]]:
    """Open a baseline's predictions, and return them and the number of predicted tokens.

    Raises:
        DamagedError: the files are not what was written.
    """
    with PredictionTable(files.rows) as table:
        if table.facts["kind"] == STATES:
            head = _read_head(files.head, table, device)
            yield StoredStates(table, head, device), table.shape[0]
        else:
            yield StoredLogits(table, device), table.shape[0]


def check_files(files: BaselineFiles) -> None:
    """Raise a DamagedError unless the files are what was written."""
    with PredictionTable(files.rows) as table:
        table.check()
        if table.facts["kind"] == STATES:
            _read_head(files.head, table, torch.device("cpu"))


@contextmanager
def prediction_writer(
    files: BaselineFiles | None,
    predictor: Predictor,
    offsets: Sequence[int],
    vocabulary: int,
    max_logits_bytes: float,
) -> Iterator[TableWriter | None]:
    """Open a table for the results of ``predictor.run``, and write the head.

    Args:
        files: where to write; None for nowhere.
        predictor: the baseline.
        offsets: ``(windows + 1,)``, the first row of each window, then the number of rows.
        vocabulary: number of entries of a prediction.
        max_logits_bytes: size above which logits are not written; infinite if something has to be
            written, because the baseline does not fit into memory beside its candidates.

    Yields:
        None if nothing is to be written.

    Raises:
        EvalError: the disk is full.
    """
    if files is None:
        yield None
        return
    head = predictor.head
    weights = None if head is None else head.weights()
    width = vocabulary if weights is None else weights[0].shape[1]
    dtype = predictor.logits_dtype if weights is None else predictor.dtype
    needed = int(offsets[-1]) * width * dtype.itemsize
    if weights is None and needed > max_logits_bytes:
        yield None
        return
    if weights is not None and not files.head.exists():
        needed += weights[0].nbytes
    free = shutil.disk_usage(files.rows.parent).free
    if needed > free and max_logits_bytes < math.inf:
        yield None  # candidates run the baseline beside them
        return
    if needed > free:
        raise EvalError(
            f"the baseline's predictions take {needed:,} bytes, but {files.rows.parent} has "
            f"{free:,} free; use less text or another store"
        )
    facts: dict[str, object] = {"kind": LOGITS}
    if weights is not None:
        digest = _write_head(files, *weights)
        facts = {
            "kind": STATES, "head": digest, "transform": head.transform, "factor": head.factor
        }  # fmt: skip
    with TableWriter(files.rows, offsets, width, dtype, facts) as writer:
        yield writer


def keep_outputs(
    writer: TableWriter,
    predictor: Predictor,
    outputs: torch.Tensor,
    places: Sequence[torch.Tensor],
    ranges: Ranges,
) -> None:
    """Write the predictions of a batch.

    Args:
        writer: as :func:`prediction_writer` opens it.
        predictor: the baseline.
        outputs: the result of ``predictor.run``.
        places: the positions of the predicting tokens of each window in ``outputs``.
        ranges: the rows of the batch's windows in the text.
    """
    is_states = writer.facts["kind"] == STATES
    outputs = outputs.cpu() if is_states else outputs
    for (start, _), place in zip(ranges, places, strict=True):
        rows = outputs[place.to(outputs.device)]
        writer.put(start, rows if is_states else predictor.logits(rows).cpu())


def _write_head(files: BaselineFiles, weight: torch.Tensor, bias: torch.Tensor | None) -> str:
    """Write the weights of a head, with its bias as a last column, unless another data set has,
    and return the digest of the file."""
    columns = weight if bias is None else torch.cat((weight, bias[:, None]), 1)
    facts = {"bias": bias is not None}
    with files.locked(files.head.name), ExitStack() as stack:
        try:
            table = stack.enter_context(PredictionTable(files.head))
        except DamagedError:
            offsets, width = (0, len(columns)), columns.shape[1]
            with TableWriter(files.head, offsets, width, columns.dtype, facts) as writer:
                writer.put(0, columns.cpu())
            table = stack.enter_context(PredictionTable(files.head))
        return table.digest


def _read_head(path: Path, rows: PredictionTable, device: torch.device) -> Head:
    """Return the head for a table of states.

    Raises:
        DamagedError: the file is not what was written for this table.
    """
    with PredictionTable(path) as table:
        transform, factor = rows.facts["transform"], rows.facts["factor"]
        if table.digest != rows.facts["head"] or transform not in TRANSFORMS:
            raise DamagedError("its head is another one")
        columns = table.window(0, table.shape[0]).to(device)
        weight, bias = columns, None
        if table.facts["bias"]:
            weight, bias = columns[:, :-1].contiguous(), columns[:, -1].contiguous()
    return Head(lambda states: F.linear(states, weight, bias), transform, factor)
