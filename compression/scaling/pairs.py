"""Pairs between which a scale per channel can be moved without changing what the model computes.

A *producer* gives out channels ``y`` that layers behind it, its *consumers*, take in. With a scale
``s > 0`` for each channel (Xiao et al. 2023, section 4, equation 3)::

    Y = (X diag(s)^-1) (diag(s) W^T)

the producer gives out ``y / s`` and the consumers' columns are multiplied by ``s``. A producer is
a norm, a module with one weight for each channel; or a linear layer whose output reaches the
consumers linearly for each channel, such as value -> output and up -> down projections.

Pairs are found by what the model does, not by its names: :mod:`compression.scaling.probing` tells
which channels arrive where, and each pair is then tried with random powers of two, which are exact
in every floating dtype. It counts if the logits stay what they were although scaling the consumers
alone changes them. A norm whose output also goes elsewhere (into the residual of BERT, or a
mixture's router) is found out here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.calibration.driver import blocks
from compression_gates.compression.model.capture import Batch
from compression_gates.compression.model.layers import Layer, all_layers
from compression_gates.compression.model.tracing import probe_batch
from compression_gates.compression.scaling.probing import carried_channels, reached_layers

TOLERANCE = 1e-4
"""How much the logits may change, as a share of what scaling the consumers alone changes."""

Changes = list[tuple[Tensor, Tensor]]
"""Tensors of the model, and what they are to hold."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A module with one weight for each channel, which multiplies by ``offset + weight``.

    The offset is 0, or 1 as in Gemma: ``w' = (1 + w) / s - 1 = (w + 1 - s) / s``, where the second
    form leaves a weight of scale 1 as it is to the last bit.
    """

    module: nn.Module
    offset: float = 0.0

    @property
    def channels(self) -> int:
        return len(self.module.weight)

    @property
    def tensors(self) -> list[Tensor]:
        bias = getattr(self.module, "bias", None)
        return [self.module.weight] if bias is None else [self.module.weight, bias]

    def divided(self, scales: Tensor) -> Changes:
        """What divides its output by ``scales`` ``(channels,)``."""
        weight, *bias = self.tensors
        after = (_wide(weight) + self.offset * (1 - scales)) / scales
        return [(weight, after), *((tensor, _wide(tensor) / scales) for tensor in bias)]


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear layer, one row for each channel."""

    layer: Layer

    @property
    def module(self) -> nn.Module:
        return self.layer.module

    @property
    def channels(self) -> int:
        return self.layer.out_features

    @property
    def tensors(self) -> list[Tensor]:
        bias = self.layer.bias
        return [self.layer.stored] if bias is None else [self.layer.stored, bias]

    def divided(self, scales: Tensor) -> Changes:
        """What divides its output by ``scales`` ``(channels,)``."""
        weight, bias = self.layer.weight, self.tensors[1:]
        after = _wide(weight) / scales[:, None]
        return [(weight, after), *((tensor, _wide(tensor) / scales) for tensor in bias)]


@dataclass(frozen=True, eq=False)
class ScalingPair:
    """A producer and its consumers.

    Attributes:
        name: of the producer.
        producer: what gives out the channels.
        consumers: the layers that take them in.
        channels: for each consumer ``(in_features,)``, which channel each of its inputs is, or
            NOWHERE. Heads of grouped-query attention that share a value share its channels.
    """

    name: str
    producer: Norm | Projection
    consumers: Mapping[str, Layer]
    channels: Mapping[str, Tensor]

    def __str__(self) -> str:
        return f"{self.name} -> {', '.join(self.consumers)}"

    @property
    def carried(self) -> Tensor:
        """``(channels,)``, those that a consumer takes in; the others keep scale 1."""
        ones = {name: torch.ones(len(numbers)) for name, numbers in self.channels.items()}
        return self.gathered(ones, "amax") > 0

    def columns(self, name: str, scales: Tensor) -> Tensor:
        """``(in_features,)`` scales of a consumer's columns; 1 for what is carried from nowhere."""
        # NOWHERE is -1, the last.
        return torch.cat([scales, scales.new_ones(1)])[self.channels[name].to(scales.device)]

    def gathered(self, values: Mapping[str, Tensor], how: str) -> Tensor:
        """``(channels,)`` the "amax" or "mean", over consumers and the inputs that share a
        channel, of ``values`` ``(in_features,)`` for each consumer; 0 where there is none."""
        first = next(iter(values.values()))
        found = first.new_zeros(self.producer.channels + 1)
        numbers = torch.cat([self.channels[name].to(first.device) for name in values])
        found.scatter_reduce_(
            0, numbers % len(found), torch.cat(list(values.values())), how, include_self=False
        )
        return found[:-1]

    def moved(self, scales: Tensor) -> Changes:
        """What moves ``scales`` ``(channels,)`` from the producer into the consumers."""
        return self.producer.divided(scales) + self.multiplied(scales)

    def multiplied(self, scales: Tensor) -> Changes:
        """The consumers' half of it."""
        return [
            (layer.weight, _wide(layer.weight) * self.columns(name, scales))
            for name, layer in self.consumers.items()
        ]


def write(changes: Changes) -> bool:
    """Makes the changes, each in its tensor's dtype; none of them if that cannot hold one."""
    rounded = [(tensor, value.to(tensor.dtype)) for tensor, value in changes]
    if not all(value.isfinite().all() for _, value in rounded):
        return False
    for tensor, value in rounded:
        tensor.copy_(value)
    return True


@torch.no_grad()
def find_pairs(
    model: PreTrainedModel, chosen: Mapping[str, Layer]
) -> Iterator[tuple[ScalingPair, str | None]]:
    """Pairs in the order of the module tree, each with the reason why it cannot be used, or None.

    The model runs on a few tokens, and is left as it was.

    Args:
        model: in evaluation mode.
        chosen: the layers that may be changed. Pairs without any of them are not named.
    """
    layers = all_layers(model)
    inputs = _inputs(model)
    single = {name: layer for name, layer in layers.items() if layer.expert is None}
    unreached = single.keys() - reached_layers(model, single, inputs)
    homes = {name: members for members in blocks(model, list(layers)).values() for name in members}
    owners = _owners(model)
    logits = model(**inputs)[0]
    taken: set[str] = set()
    for name, producer in _producers(model, layers):
        channels = carried_channels(
            model, producer.module, producer.channels, layers, inputs,
            mixed_into=homes[name] if name in layers else (),
        )  # fmt: skip
        consumers = {key: layers[key] for key in channels}
        touched = {*consumers, name} & layers.keys()
        if not consumers or not touched & chosen.keys():
            continue
        pair = ScalingPair(name, producer, consumers, channels)
        tensors = [*producer.tensors, *(layer.stored for layer in consumers.values())]
        if not touched <= chosen.keys():
            reason = "a layer of it is left alone: by include or exclude, or as a router"
        elif any(owners[id(tensor)] > 1 for tensor in tensors):
            reason = "a weight of it is also used elsewhere"
        elif taken & consumers.keys():
            reason = "another producer takes the scale already"
        elif any(unreached.intersection(homes[key]) for key in consumers):
            reason = "the block has layers that not every input reaches"
        else:
            verified = _verified(model, inputs, logits, pair)
            reason = None if verified else "the model would change"
            pair = verified or pair
        if reason is None:
            taken |= consumers.keys()
        yield pair, reason


def _inputs(model: PreTrainedModel) -> Batch:
    """A few short rows that the model runs on: its own ``dummy_inputs``, which some do not."""
    try:
        inputs = {key: value.to(model.device) for key, value in model.dummy_inputs.items()}
        model(**inputs)
    except Exception:  # whatever these lack: a decoder's tokens, say
        return probe_batch(model)
    return inputs


def _producers(
    model: PreTrainedModel, layers: Mapping[str, Layer]
) -> Iterator[tuple[str, Norm | Projection]]:
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if name in layers:
            yield name, Projection(layers[name])
        elif isinstance(weight, nn.Parameter) and weight.ndim == 1:
            yield name, Norm(module)


def _owners(model: PreTrainedModel) -> Counter[int]:
    """How many modules hold each parameter."""
    return Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None
    )


def _verified(
    model: PreTrainedModel, inputs: Batch, logits: Tensor, pair: ScalingPair
) -> ScalingPair | None:
    """The pair as it preserves the ``logits``, or None."""
    forms = [pair]
    if isinstance(pair.producer, Norm):
        gemma = Norm(pair.producer.module, offset=1.0)
        forms.append(ScalingPair(pair.name, gemma, pair.consumers, pair.channels))
    for form in forms:
        if _preserves(model, inputs, logits, form):
            return form
    return None


def _preserves(model: PreTrainedModel, inputs: Batch, logits: Tensor, pair: ScalingPair) -> bool:
    generator = torch.Generator().manual_seed(0)
    halved = torch.randint(0, 2, (pair.producer.channels,), generator=generator) == 1
    # Halves of weights and doubles of activations: float16 would lose small halves of the latter.
    scales = torch.where(halved & pair.carried, 0.5, 1.0).to(logits.device)
    tensors = [*pair.producer.tensors, *(layer.stored for layer in pair.consumers.values())]
    before = [tensor.clone() for tensor in tensors]
    try:
        if not write(pair.multiplied(scales)):
            return False
        effect = (model(**inputs)[0] - logits).abs().max()
        if not write(pair.producer.divided(scales)):
            return False
        left = (model(**inputs)[0] - logits).abs().max()
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
    share = TOLERANCE
    if getattr(pair.producer, "offset", 0) or logits.dtype == torch.float16:
        # A weight beside an offset is rounded; float16 has lost bits of activations near zero.
        share = max(share, 4 * torch.finfo(logits.dtype).eps)
    return bool(effect > 0 and left <= share * effect)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
