"""Collect input statistics of layers by running a model on calibration batches.

The model is called with the tensors of a batch, whatever its architecture. Methods receive
statistics rather than batches; this package alone decides how often the model runs and in which
order layers are visited. Layers with the same input tensor form a group and share their statistics.
Groups are visited in the order in which the model calls them, and the statistics of each are those
of the model in which all groups before it are compressed, as in GPTQ and SparseGPT. A layer that is
used several times (ALBERT shares one block) is visited once, with the inputs of all uses.

There are three ways to the same statistics, bit for bit:

- one pass: a block runs once on the kept outputs of the block before it, and pauses before each of
  its groups; the activations of all batches are then in memory;
- with less memory, or if a block calls its layers more than once or in an unknown order, a block
  runs on the kept outputs up to each of its groups, and once more for its outputs;
- if a model does not call its blocks in sequence, or passes more between them than the output of
  the previous block, it runs from the start up to each group (the slow path).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
)

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from compression_gates.compression.calibration import resources
from compression_gates.compression.calibration.calls import (
    Calls,
    Groups,
    first_text,
    stages,
    trace_calls,
)
from compression_gates.compression.calibration.kept_outputs import KeptOutputs
from compression_gates.compression.calibration.offloading import Place, offloaded
from compression_gates.compression.calibration.one_pass import BlockRuns
from compression_gates.compression.calibration.recording import Recorder
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

MAX_THREADS = 1024
"""Largest number of threads of one pass: one for each batch, and on a CPU those of its kernels."""


def blocks(model: PreTrainedModel, names: Sequence[str]) -> dict[str, list[str]]:
    """Group the names of layers by the name of their block.

    A block is a member of an outermost :class:`torch.nn.ModuleList`. A layer outside all blocks
    forms a group under its own name.
    """
    lists = _outermost_lists(model)
    grouped: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        outer = next((x for x in lists if name.startswith(x + ".")), None)
        key = name if outer is None else f"{outer}.{name[len(outer) + 1 :].split('.')[0]}"
        grouped.setdefault(key, []).append(name)
    return grouped


def block_names(model: PreTrainedModel) -> list[str]:
    """Return the names of all blocks of a model: the members of its outermost lists of modules."""
    return [
        f"{name}.{number}"
        for name in _outermost_lists(model)
        for number in range(len(model.get_submodule(name)))
    ]


def _outermost_lists(model: PreTrainedModel) -> list[str]:
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return [x for x in lists if not any(x.startswith(f"{other}.") for other in lists)]


@torch.no_grad()
def visit_groups(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    with_products: bool,
    desc: str = "calibrating",
    with_magnitudes: bool = False,
) -> Iterator[dict[str, InputStatistics]]:
    """Yield the input statistics of each group of layers by name, in calling order.

    Changes that the caller makes to a group affect the statistics of later groups. Groups of
    several experts can be yielded as one. An expert to which no token is routed has statistics of
    zero tokens and causes a warning.

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
    with _calibration(model, layers, batches, with_products, with_magnitudes) as (recorder, place):
        longest = _longest(recorder.batches)
        calls = trace_calls(model, layers, blocks(model, list(layers)), longest)
        if calls.sequential and is_replayable(model, list(calls.groups), recorder.batches[0]):
            visits, label = _on_kept_outputs(recorder, calls, place)
        else:
            visits, label = _from_start(recorder, calls, place), "slow path"
        desc = f"{desc} ({label})" if label else desc
        bar = tqdm(desc=desc, total=len(layers), unit="layer", leave=False, disable=None)
        with closing(visits), bar:
            for statistics in visits:
                yield statistics
                bar.update(len(statistics))


def groups_of(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    is_calibrated: bool,
    desc: str,
) -> Iterator[dict[str, InputStatistics | None]]:
    """Yield the groups of :func:`visit_groups` with the products of their inputs, or all layers at
    once without statistics.

    Loop over the result itself, so that it ends with an exception of the loop: as a variable it
    would live, with its threads and hooks, as long as the traceback.
    """
    if is_calibrated:
        yield from visit_groups(model, layers, batches, with_products=True, desc=desc)
    else:
        yield dict.fromkeys(layers)


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
        CompressionError: as :func:`visit_groups`.
    """
    with _calibration(model, layers, batches, with_products, with_magnitudes) as (recorder, _):
        calls = trace_calls(model, layers, {"": list(layers)}, recorder.batches[0])
        (groups,) = calls.groups.values()
        return recorder.record(groups, _forward(recorder), _uses(recorder, calls, groups))


@contextmanager
def _calibration(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    with_products: bool,
    with_magnitudes: bool,
) -> Iterator[tuple[Recorder, Place]]:
    """Prepare a model and batches, and give what records statistics and what places a block."""
    if not batches:
        raise CompressionError("calibration needs at least one batch of text")
    device = resources.current().device and torch.device(resources.current().device)
    with without_cache(model), _separate_experts(model, layers):
        prepared = _prepared(model, layers, batches, device or model.device)
        recorder = Recorder(model, layers, prepared, with_products, with_magnitudes, device)
        with offloaded(model, block_names(model), device) as place:
            yield recorder, place


def _from_start(
    recorder: Recorder, calls: Calls, place: Place
) -> Iterator[dict[str, InputStatistics]]:
    """Yield the statistics of each group, for which the model runs from the start."""
    for block in calls.groups:
        for groups in stages(calls.groups[block], recorder.layers):
            uses = _uses(recorder, calls, groups)
            statistics = recorder.record(groups, _forward(recorder), uses)
            place(block)
            yield statistics


def _on_kept_outputs(
    recorder: Recorder, calls: Calls, place: Place
) -> tuple[Iterator[dict[str, InputStatistics]], str]:
    """Return the statistics of each group, for which a block runs on the kept outputs of the one
    before it, and whether some block runs several times."""
    memory = resources.current().memory
    if memory is None:
        memory = int(resources.SHARE * resources.free_memory(recorder.device))
    once = calls.ordered if _fits(recorder, calls, memory) else ()

    def visits() -> Iterator[dict[str, InputStatistics]]:
        with KeptOutputs(memory) as outputs:
            replay = Replay(recorder.model, list(calls.groups), recorder.batches, outputs)
            for block in calls.groups:
                place(block)
                visit = _in_one_pass if block in once else _in_several_runs
                yield from visit(recorder, calls, replay, block)

    return visits(), "" if len(once) == len(calls.groups) else "several runs of a block"


def _fits(recorder: Recorder, calls: Calls, memory: int) -> bool:
    """Return whether the activations of all batches fit, estimated from those of the first text of
    the longest batch."""
    sizes = [max(value.numel() for value in batch.values()) for batch in recorder.batches]
    longest = _longest(recorder.batches)
    first = max(value.numel() for value in first_text(longest).values())
    threads = len(sizes) * (torch.get_num_threads() if recorder.device.type == "cpu" else 1)
    return calls.activations * sum(sizes) / first <= memory and threads <= MAX_THREADS


def _longest(batches: Sequence[Batch]) -> Batch:
    """Return the batch with the longest texts, whose attention takes the most memory per token."""
    return max(batches, key=lambda batch: max(value.shape[-1] for value in batch.values()))


def _in_one_pass(
    recorder: Recorder, calls: Calls, replay: Replay, block: str
) -> Iterator[dict[str, InputStatistics]]:
    """Yield the statistics of each group of a block, which runs once and pauses at each group."""
    with ExitStack() as stack:
        with replay.until(block) as forward:
            runs = stack.enter_context(BlockRuns(recorder, calls.groups[block], forward))
            statistics = runs.statistics(0)
        yield statistics
        for number in range(1, len(calls.groups[block])):
            yield runs.statistics(number)
        if block != replay.last:
            for number, output in enumerate(runs.outputs()):
                replay.keep(block, number, output)


def _in_several_runs(
    recorder: Recorder, calls: Calls, replay: Replay, block: str
) -> Iterator[dict[str, InputStatistics]]:
    """Yield the statistics of each group of a block, which runs up to each and then to its end."""
    for groups in stages(calls.groups[block], recorder.layers):
        with replay.until(block) as forward:
            statistics = recorder.record(groups, forward, _uses(recorder, calls, groups))
        yield statistics
    if block != replay.last:
        replay.finish(block)


def _forward(recorder: Recorder) -> Callable[[int], object]:
    """Return a function that runs the whole model on the batch of an index."""
    return lambda number: recorder.model(**recorder.batches[number])


def _uses(recorder: Recorder, calls: Calls, groups: Groups) -> int | None:
    """Return how often the first layers of groups are called; None with experts, as it varies."""
    first = [group[0] for group in groups]
    routed = any(recorder.layers[name].routed for name in first)
    return None if routed else sum(calls.uses[name] for name in first)


def _prepared(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    device: torch.device,
) -> Sequence[Batch]:
    """Return the batches on a device, split into texts if masks do not identify padding everywhere.

    Masks without padding are left out, so that fused attention can be used.
    """
    seq2seq = is_seq2seq(model)
    if seq2seq or any(layer.routed for layer in layers.values()):
        batches = [row for batch in batches for row in one_by_one(batch, seq2seq)]
    return [
        {
            key: value.to(device)
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
