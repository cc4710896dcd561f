"""Collect input statistics of layers by running a model on calibration batches.

The model is called with the tensors of a batch, whatever its architecture. Methods receive
statistics rather than batches; this module alone decides how often the model runs and in which
order layers are visited. Each block has its own pass over the batches, so that later statistics
are those of the partly compressed model, as in SparseGPT and Wanda. A block that is used several
times (ALBERT shares its one layer) is visited once, with the inputs of all uses. Layers with the
same input tensor share their statistics.
"""

import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from compression_gates.compression.calibration.unrouted_experts import UnroutedExpert
from compression_gates.compression.errors import CompressionError, unreached
from compression_gates.compression.model.capture import (
    Batch,
    capture_inputs,
    one_by_one,
    without_cache,
)
from compression_gates.compression.model.gradients import is_seq2seq
from compression_gates.compression.model.layers import Layer


class InputStatistics:
    """Moments of a layer's inputs over all tokens, accumulated in float32 or float64.

    Attributes:
        tokens: number of tokens.
        squares: ``(features,)`` sum of squares, in float64.
        absolutes: ``(features,)`` sum of absolute values, in float64.
        largest: ``(features,)`` largest absolute value.
        products: ``(features, features)`` sum of outer products, or None if not requested.
    """

    def __init__(self, features: int, device: torch.device, with_products: bool):
        self.tokens = 0
        self.squares = torch.zeros(features, dtype=torch.float64, device=device)
        self.absolutes = torch.zeros(features, dtype=torch.float64, device=device)
        self.largest = torch.zeros(features, device=device)
        self.products = torch.zeros(features, features, device=device) if with_products else None

    def add(self, inputs: Tensor) -> None:
        """Add inputs ``(tokens, features)``."""
        if not len(inputs):
            return
        inputs = inputs.float()
        self.tokens += inputs.shape[0]
        self.squares += inputs.double().square().sum(dim=0)
        self.absolutes += inputs.double().abs().sum(dim=0)
        self.largest = torch.maximum(self.largest, inputs.abs().amax(dim=0))
        if self.products is not None:
            self.products += inputs.T @ inputs

    @property
    def norm(self) -> Tensor:
        """``||X_j||_2`` ``(features,)``, over all tokens."""
        return self.squares.sqrt()

    @property
    def mean_magnitude(self) -> Tensor:
        """Mean of ``|X_j|`` ``(features,)``, over all tokens."""
        return (self.absolutes / max(self.tokens, 1)).float()

    @property
    def hessian(self) -> Tensor:
        """``2 X X^T / tokens`` ``(features, features)``."""
        return self.products * (2.0 / max(self.tokens, 1))


class _Stop(Exception):  # noqa: N818 - control flow, not an error
    """Ends a forward pass after the last layer of interest."""


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
) -> Iterator[dict[str, InputStatistics]]:
    """Yield the input statistics of each block's layers by name, block after block.

    Changes that the caller makes to a block affect the statistics of later blocks. An expert to
    which no token is routed has statistics of zero tokens and causes a warning.

    Raises:
        CompressionError: there is no batch, no input reaches a layer, or inputs are not finite.
    """
    with without_cache(model):
        batches = _checked(model, layers, batches)
        order, leaders = _first_pass(model, layers, batches[0])
        groups = blocks(model, order).values()
        for block in tqdm(groups, desc=desc, unit="block", leave=False, disable=None):
            members = {name: layers[name] for name in block}
            yield _collect(model, layers, members, batches, order, leaders, with_products)


@torch.no_grad()
def collect(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    with_products: bool,
) -> dict[str, InputStatistics]:
    """Return the input statistics of all layers, without changes in between, in one pass.

    Raises:
        CompressionError: as :func:`visit_blocks`.
    """
    with without_cache(model):
        batches = _checked(model, layers, batches)
        order, leaders = _first_pass(model, layers, batches[0])
        return _collect(model, layers, layers, batches, order, leaders, with_products)


def _checked(
    model: PreTrainedModel, layers: Mapping[str, Layer], batches: Sequence[Batch]
) -> Sequence[Batch]:
    """Return the batches, split into texts if the mask does not identify padding in all layers."""
    if not batches:
        raise CompressionError("calibration needs at least one batch of text")
    seq2seq = is_seq2seq(model)
    if seq2seq or any(layer.routed for layer in layers.values()):
        return [row for batch in batches for row in one_by_one(batch, seq2seq)]
    return batches


def _first_pass(
    model: PreTrainedModel, layers: Mapping[str, Layer], batch: Batch
) -> tuple[list[str], dict[str, str]]:
    """Return the names of the layers in calling order, with repeats; and for each layer the first
    layer with the same input tensors."""
    order: list[str] = []
    inputs_of: dict[str, list[int]] = {}
    tensors: list[weakref.ref] = []

    def record(name: str, inputs: Tensor) -> None:
        order.append(name)
        number = next((i for i, tensor in enumerate(tensors) if tensor() is inputs), len(tensors))
        if number == len(tensors):
            tensors.append(weakref.ref(inputs))
        inputs_of.setdefault(name, []).append(number)

    with capture_inputs(model, layers, record):
        model(**batch)
    for name, layer in layers.items():
        if name not in inputs_of and not layer.routed:
            raise unreached(name)
    order += [name for name in layers if name not in inputs_of]
    first: dict[tuple[int, ...], str] = {}
    leaders = {
        name: name if layers[name].routed else first.setdefault(tuple(numbers), name)
        for name, numbers in inputs_of.items()
    }
    return order, leaders


def _collect(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    members: Mapping[str, Layer],
    batches: Sequence[Batch],
    order: Sequence[str],
    leaders: Mapping[str, str],
    with_products: bool,
) -> dict[str, InputStatistics]:
    """Return the statistics of ``members``; forward passes end after their last call."""
    statistics: dict[str, InputStatistics] = {}
    recorded: dict[str, str] = {}
    """For each leader, the member whose inputs are recorded."""
    for name, layer in members.items():
        first = recorded.setdefault(leaders.get(name, name), name)
        statistics[name] = statistics.get(first) or InputStatistics(
            layer.in_features, layer.stored.device, with_products
        )
    uses = sum(order.count(name) for name, layer in members.items() if not layer.routed)
    routed = any(layer.routed for layer in members.values())
    for batch in batches:
        remaining = uses

        def record(name: str, inputs: Tensor, batch: Batch = batch) -> None:
            nonlocal remaining
            if name not in members:
                # The number of calls of experts varies. If all members are experts, the whole
                # model runs.
                if uses and not remaining:
                    raise _Stop
                return
            if recorded[leaders.get(name, name)] == name:
                statistics[name].add(_tokens(inputs, batch.get("attention_mask")))
            remaining -= not members[name].routed
            if not remaining and not routed:
                raise _Stop

        with capture_inputs(model, layers if routed else members, record), suppress(_Stop):
            model(**batch)
    for name, moments in statistics.items():
        if not moments.squares.isfinite().all():
            raise CompressionError(f"layer {name}: its calibration inputs are not finite")
        if not moments.tokens:
            warnings.warn(name, UnroutedExpert, stacklevel=3)
    return statistics


def _tokens(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``inputs`` as ``(tokens, features)`` without padding.

    Inputs whose shape differs from that of the mask, such as a pooler's, have no padding.
    """
    flat = inputs.flatten(0, -2)
    if mask is not None and inputs.shape[:-1] in (mask.shape, (mask.numel(),)):
        return flat[mask.flatten().bool()]
    return flat
