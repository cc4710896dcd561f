"""Pairs of a producer and its consumers, between which a scale for each channel can be moved.

The output ``Y = X W^T`` of consumers does not change if their producer gives ``X diag(s)^-1``
instead of ``X`` and their columns are multiplied by the scales ``s > 0`` (Xiao et al. 2023, section
4, equation 3)::

    Y = (X diag(s)^-1) (diag(s) W^T)

A producer is a norm with one weight for each channel, or a linear layer each of whose outputs
reaches the consumers linearly. Examples of the latter are the value and output projections of
attention, and the up and down projections of a gated FFN.

Pairs are found from the behaviour of the model, not from the names of its modules.
:mod:`compression_gates.compression.scaling.probing` finds which output channels of a producer
arrive at which input channels. Each pair is then tried with random powers of two, which are exact
in every floating dtype. It is usable if scaling both sides preserves the outputs, while scaling the
consumers alone changes them. The outputs are those of the last block with a consumer if blocks can
run on their own, otherwise the logits. This excludes a norm whose output is also used elsewhere,
such as in the residual of BERT or in the router of a mixture.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import blocks
from compression_gates.compression.model.capture import Batch, without_cache
from compression_gates.compression.model.layers import Layer, all_layers
from compression_gates.compression.model.tracing import probe_batch
from compression_gates.compression.scaling.passes import Passes
from compression_gates.compression.scaling.probing import carried_channels, reached_layers

TOLERANCE = 1e-4
"""Largest change of the logits, as a fraction of the change from scaling the consumers alone."""

Changes = list[tuple[Tensor, Tensor]]
"""Tensors of the model, each with its new value."""


@dataclass(frozen=True, eq=False)
class Producer:
    """A norm, or a linear layer with one row of weights for each channel.

    Attributes:
        module: the norm or linear layer.
        transposed: whether the module stores its weight as ``(in, out)``.
        offset: a norm multiplies by ``offset + weight``. It is 1 for Gemma, whose new weight
            ``(1 + w) / s - 1`` is computed as ``(w + 1 - s) / s``, which is exact for ``s = 1``.
    """

    module: nn.Module
    transposed: bool = False
    offset: float = 0.0

    @property
    def weight(self) -> Tensor:
        """The weight ``(channels,)`` of a norm, or ``(channels, in_features)``."""
        return self.module.weight.T if self.transposed else self.module.weight

    @property
    def channels(self) -> int:
        return len(self.weight)

    @property
    def is_norm(self) -> bool:
        return self.weight.ndim == 1

    @property
    def parameters(self) -> list[Tensor]:
        """The weight as it is stored, and the bias if there is one."""
        bias = getattr(self.module, "bias", None)
        return [self.module.weight] if bias is None else [self.module.weight, bias]

    def changes(self, scales: Tensor) -> Changes:
        """Return the changes that divide the output by ``scales`` ``(channels,)``."""
        weight, biases = _at_least_float32(self.weight), self.parameters[1:]
        if self.is_norm:
            after = (weight + self.offset * (1 - scales)) / scales
        else:
            after = weight / scales[:, None]
        return [
            (self.weight, after),
            *((bias, _at_least_float32(bias) / scales) for bias in biases),
        ]


@dataclass(frozen=True, eq=False)
class ScalingPair:
    """A producer and its consumers.

    Attributes:
        name: of the producer.
        producer: the module whose output is divided by the scales.
        consumers: the layers whose columns are multiplied by the scales, by name.
        channels: for each consumer ``(in_features,)``, the producer's channel that each input comes
            from, or NO_CHANNEL. Several inputs can come from one channel: heads of grouped-query
            attention share values.
    """

    name: str
    producer: Producer
    consumers: Mapping[str, Layer]
    channels: Mapping[str, Tensor]

    def __str__(self) -> str:
        return f"{self.name} -> {', '.join(self.consumers)}"

    @property
    def carried(self) -> Tensor:
        """``(channels,)``, whether a consumer receives the channel; other channels keep scale 1."""
        ones = {name: torch.ones(len(indices)) for name, indices in self.channels.items()}
        return self.reduced(ones, "amax") > 0

    def columns(self, name: str, scales: Tensor) -> Tensor:
        """Return the scales ``(in_features,)`` of a consumer's columns; 1 for NO_CHANNEL."""
        # The index NO_CHANNEL, -1, selects the appended 1.
        return torch.cat([scales, scales.new_ones(1)])[self.channels[name].to(scales.device)]

    def reduced(self, values: Mapping[str, Tensor], how: str) -> Tensor:
        """Return the "amax" or "mean" ``(channels,)`` of values over the inputs from each channel.

        Args:
            values: ``(in_features,)`` for each consumer.
            how: a reduction of ``Tensor.scatter_reduce_``. A channel without inputs gets 0.
        """
        first = next(iter(values.values()))
        results = first.new_zeros(self.producer.channels + 1)
        indices = torch.cat([self.channels[name].to(first.device) for name in values])
        results.scatter_reduce_(
            0, indices % len(results), torch.cat(list(values.values())), how, include_self=False
        )
        return results[:-1]

    def changes(self, scales: Tensor) -> Changes:
        """Return the changes that move ``scales`` ``(channels,)`` into the consumers."""
        return self.producer.changes(scales) + self.consumer_changes(scales)

    def consumer_changes(self, scales: Tensor) -> Changes:
        """Return only the changes of the consumers."""
        return [
            (layer.weight, _at_least_float32(layer.weight) * self.columns(name, scales))
            for name, layer in self.consumers.items()
        ]


def write(changes: Changes) -> bool:
    """Write changes to the model, and return whether they were written.

    Nothing is written if a value is not finite in the dtype of its tensor.
    """
    rounded = [(tensor, value.to(tensor.dtype)) for tensor, value in changes]
    if not all(value.isfinite().all() for _, value in rounded):
        return False
    for tensor, value in rounded:
        tensor.copy_(value)
    return True


@torch.no_grad()
def find_pairs(
    model: PreTrainedModel, selected: Mapping[str, Layer]
) -> Iterator[tuple[ScalingPair, str | None]]:
    """Yield the pairs of a model, each with the reason why it cannot be scaled, or None.

    Pairs are in the order of the module tree. The model runs on a few tokens and is not changed.

    Args:
        model: in evaluation mode.
        selected: the layers that may be changed. Pairs without any of them are left out.
    """
    with without_cache(model):
        yield from _find_pairs(model, selected)


def _find_pairs(
    model: PreTrainedModel, selected: Mapping[str, Layer]
) -> Iterator[tuple[ScalingPair, str | None]]:
    layers = all_layers(model)
    inputs = _inputs(model)
    single = {name: layer for name, layer in layers.items() if layer.expert is None}
    unreached = single.keys() - reached_layers(model, single, inputs)
    block_of = {name: names for names in blocks(model, list(layers)).values() for name in names}
    owners = _owner_counts(model)
    passes = Passes(model, layers, inputs)
    row = Passes(model, layers, {key: value[:1] for key, value in inputs.items()})
    taken: set[str] = set()
    for name, producer in _producers(model, layers):
        mixed_into = block_of[name] if name in layers else ()
        channels = carried_channels(row, name, producer.channels, layers, mixed_into)
        consumers = {key: layers[key] for key in channels}
        touched = {*consumers, name} & layers.keys()
        if not consumers or not touched & selected.keys():
            continue
        pair = ScalingPair(name, producer, consumers, channels)
        if not touched <= selected.keys():
            reason = "one of its layers is excluded, not included, or a router"
        elif any(owners[id(parameter)] > 1 for parameter in _parameters(pair)):
            reason = "one of its weights is shared with another module"
        elif taken & consumers.keys():
            reason = "its consumers are scaled with another producer"
        elif any(unreached.intersection(block_of[key]) for key in consumers):
            reason = "its block has layers that not every input reaches"
        else:
            verified = _verified(passes, pair)
            reason = None if verified else "scaling it would change the outputs of the model"
            pair = verified or pair
        if reason is None:
            taken |= consumers.keys()
        yield pair, reason


def _inputs(model: PreTrainedModel) -> Batch:
    """Return the model's ``dummy_inputs`` if it runs on them, otherwise random tokens."""
    try:
        inputs = {key: value.to(model.device) for key, value in model.dummy_inputs.items()}
        model(**inputs)
    except Exception:  # for example, a decoder's tokens are missing
        return probe_batch(model)
    return inputs


def _producers(
    model: PreTrainedModel, layers: Mapping[str, Layer]
) -> Iterator[tuple[str, Producer]]:
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if name in layers:
            yield name, Producer(module, layers[name].transposed)
        elif isinstance(weight, nn.Parameter) and weight.ndim == 1:
            yield name, Producer(module)


def _owner_counts(model: PreTrainedModel) -> Counter[int]:
    """Return the number of modules that hold each parameter, by its id."""
    return Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None
    )


def _parameters(pair: ScalingPair) -> list[Tensor]:
    return [*pair.producer.parameters, *(layer.stored for layer in pair.consumers.values())]


def _verified(passes: Passes, pair: ScalingPair) -> ScalingPair | None:
    """Return the pair with the offset for which scaling preserves the outputs, or None."""
    candidates = [pair]
    if pair.producer.is_norm:
        candidates.append(replace(pair, producer=replace(pair.producer, offset=1.0)))
    return next((c for c in candidates if _preserves(passes, c)), None)


def _preserves(passes: Passes, pair: ScalingPair) -> bool:
    """Return whether scaling a pair preserves the outputs of its blocks, or of the model.

    In half precision, rounding in the sums of a block can exceed the tolerance although the logits
    agree, so these decide where the outputs of the blocks differ.
    """
    first = passes.block_of(pair.name)
    places = [passes.block_of(name) for name in pair.consumers]
    if first is None or None in places:
        return _agree(passes.result, lambda: passes.model(**passes.batch)[0], pair)
    last = max(places, key=list(passes.outputs).index)

    def output() -> Tensor:
        return _floats(next(out for name, out in passes.blocks_from(first) if name == last))

    if _agree(_floats(passes.outputs[last]), output, pair):
        return True
    half = passes.result.dtype in (torch.float16, torch.bfloat16)
    return half and _agree(passes.result, lambda: passes.model(**passes.batch)[0], pair)


def _floats(output: object) -> Tensor:
    """Return all floating-point numbers in the output of a block."""
    tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
    return torch.cat([tensor.flatten() for tensor in tensors])


def _agree(before: Tensor, output: Callable[[], Tensor], pair: ScalingPair) -> bool:
    """Return whether scaling a pair changes outputs far less than scaling its consumers alone.

    Args:
        before: outputs of the unchanged model.
        output: returns the outputs of the model as it is.
        pair: the pair to scale. It is restored.
    """
    generator = torch.Generator().manual_seed(0)
    halved = torch.randint(0, 2, (pair.producer.channels,), generator=generator) == 1
    # This halves weights and doubles activations; small activations would underflow in float16.
    scales = torch.where(halved & pair.carried, 0.5, 1.0).to(before.device)
    parameters = _parameters(pair)
    values = [parameter.clone() for parameter in parameters]
    try:
        if not write(pair.consumer_changes(scales)):
            return False
        effect = (output() - before).abs().max()
        if not write(pair.producer.changes(scales)):
            return False
        remaining = (output() - before).abs().max()
    finally:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
    tolerance = TOLERANCE
    if pair.producer.offset or before.dtype == torch.float16:
        # A weight with an offset is rounded, and float16 loses precision of values near zero.
        tolerance = max(tolerance, 4 * torch.finfo(before.dtype).eps)
    return bool(effect > 0 and remaining <= tolerance * effect)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
