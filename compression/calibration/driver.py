"""Collect input statistics of layers by running a model on calibration batches.

The model is called with the tensors of a batch, whatever its architecture. Methods receive
statistics rather than batches; this package alone decides how often the model runs and in which
order layers are visited. Blocks are visited one after the other, so that later statistics are those
of the partly compressed model, as in SparseGPT and Wanda. Each block runs twice on the inputs that
the changed blocks before it give: once to record statistics, and once to get the inputs of the next
block. A block that is used several times (ALBERT shares its one layer) is visited once, with the
inputs of all uses. Layers with the same input tensor share their statistics.

Where a model does not call its blocks in sequence, or passes more between them than the output of
the previous block, it runs from the start for each block (the slow path).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from compression_gates.compression.calibration.calls import Calls, trace_calls
from compression_gates.compression.calibration.recording import record_statistics
from compression_gates.compression.calibration.replay import Replay, is_replayable
from compression_gates.compression.calibration.statistics import InputStatistics
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import (
    Batch,
    eager_experts,
    one_by_one,
    without_cache,
)
from compression_gates.compression.model.gradients import is_seq2seq
from compression_gates.compression.model.layers import Layer

Recorder = Callable[..., dict[str, InputStatistics]]
""":func:`record_statistics` for given layers and a given way to run them."""


def blocks(model: PreTrainedModel, names: Sequence[str]) -> dict[str, list[str]]:
    """Group the names of layers by the name of their block.

    A block is a member of an outermost :class:`torch.nn.ModuleList`. A layer outside all blocks
    forms a group under its own name.
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    grouped: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        outer = next((x for x in lists if name.startswith(x + ".")), None)
        key = name if outer is None else f"{outer}.{name[len(outer) + 1 :].split('.')[0]}"
        grouped.setdefault(key, []).append(name)
    return grouped


@torch.no_grad()
def visit_blocks(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    with_products: bool,
    desc: str = "calibrating",
    with_magnitudes: bool = False,
) -> Iterator[dict[str, InputStatistics]]:
    """Yield the input statistics of each block's layers by name, block after block.

    Changes that the caller makes to a block affect the statistics of later blocks. An expert to
    which no token is routed has statistics of zero tokens and causes a warning.

    Args:
        model: in evaluation mode.
        layers: the layers to visit.
        batches: the calibration data.
        with_products: whether the statistics include the products of the inputs.
        desc: label of the progress bar.
        with_magnitudes: whether the statistics include the absolute values of the inputs.

    Raises:
        CompressionError: there is no batch, no input reaches a layer, or inputs are not finite.
    """
    with without_cache(model), _separate_experts(model, layers):
        batches = _prepared(model, layers, batches)
        calls = trace_calls(model, layers, blocks(model, layers), batches[0])
        visits = _on_kept_outputs
        if not calls.sequential or not is_replayable(model, list(calls.blocks), batches[0]):
            visits, desc = _from_start, f"{desc} (slow path)"
        record = _recorder(model, batches, calls, with_products, with_magnitudes)
        visits = visits(model, layers, batches, calls, record)
        total = len(calls.blocks)
        yield from tqdm(visits, desc, total, unit="block", leave=False, disable=None)


@torch.no_grad()
def collect(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    with_products: bool,
    with_magnitudes: bool = False,
) -> dict[str, InputStatistics]:
    """Return the input statistics of all layers, without changes in between, in one pass.

    Raises:
        CompressionError: as :func:`visit_blocks`.
    """
    with without_cache(model), _separate_experts(model, layers):
        batches = _prepared(model, layers, batches)
        calls = trace_calls(model, layers, {"": list(layers)}, batches[0])
        record = _recorder(model, batches, calls, with_products, with_magnitudes)
        return next(_from_start(model, layers, batches, calls, record))


def _recorder(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    calls: Calls,
    with_products: bool,
    with_magnitudes: bool,
) -> Recorder:
    """Return :func:`record_statistics` with what is the same for all blocks."""
    return partial(
        record_statistics,
        model,
        calls.leaders,
        batches,
        with_products=with_products,
        with_magnitudes=with_magnitudes,
    )


def _on_kept_outputs(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    calls: Calls,
    record: Recorder,
) -> Iterator[dict[str, InputStatistics]]:
    """Yield the statistics of each block, which runs on the kept outputs of the one before it."""
    replay = Replay(model, list(calls.blocks), batches)
    previous = None
    for block, names in calls.blocks.items():
        if previous is not None:
            replay.finish(previous)
        previous = block
        members = {name: layers[name] for name in names}
        with replay.until(block) as forward:
            statistics = record(members, forward)
        yield statistics


def _from_start(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    calls: Calls,
    record: Recorder,
) -> Iterator[dict[str, InputStatistics]]:
    """Yield the statistics of each block, for which the model runs from the start."""

    def forward(number: int) -> None:
        model(**batches[number])

    for names in calls.blocks.values():
        members = {name: layers[name] for name in names}
        # The number of calls of an expert varies, so the pass ends with the model.
        routed = any(layer.routed for layer in members.values())
        uses = None if routed else sum(calls.uses[name] for name in names)
        yield record(members, forward, uses=uses)


def _prepared(
    model: PreTrainedModel, layers: Mapping[str, Layer], batches: Sequence[Batch]
) -> Sequence[Batch]:
    """Return the batches, split into texts if the mask does not identify padding in all layers.

    Masks without padding are left out, so that fused attention can be used.
    """
    if not batches:
        raise CompressionError("calibration needs at least one batch of text")
    seq2seq = is_seq2seq(model)
    if seq2seq or any(layer.routed for layer in layers.values()):
        batches = [row for batch in batches for row in one_by_one(batch, seq2seq)]
    return [
        {
            key: value
            for key, value in batch.items()
            if not (key.endswith("attention_mask") and value.all())
        }
        for batch in batches
    ]


def _separate_experts(
    model: PreTrainedModel, layers: Mapping[str, Layer]
) -> AbstractContextManager[None]:
    """Compute experts separately in all passes, if their inputs are recorded in one."""
    stacked = any(layer.expert is not None for layer in layers.values())
    return eager_experts(model) if stacked else nullcontext()
