"""Which channels of a module's output arrive one by one at the inputs of later layers.

Nothing is assumed about what lies in between. The module's output is replaced by noise ``y > 0``,
the same in each row of a batch, and row ``r`` has a set of channels ``S_r`` doubled. An input
channel ``x_j`` of a layer behind it is *carried* from channel ``c`` if::

    x_j(row r) = 2 x_j   where c is in S_r,        x_j   where it is not,

at each token: then ``x_j`` is homogeneous in ``y_c`` and feels no other channel of ``S_r``. Which
``c`` that is, is read off the binary digits of its number: ``S_0`` holds all channels and
``S_(1+b)`` those whose number has bit ``b``. One forward of ``2 + log2(channels)`` short rows thus
tells a norm from a projection, the value from queries and keys, a gated product from its gate, and
how grouped-query attention repeats its heads.

A projection that also gives out what is not carried (queries, keys and values in one, or gate and
product) is first taken apart by rows that double a few neighbouring channels each.

Doubling is exact in every floating dtype, so the answer does not depend on it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.model.capture import Batch, watched
from compression_gates.compression.model.layers import Layer

NOWHERE = -1
"""Stands for the channel of an input that is carried from none."""
TOLERANCE = 1e-3
"""Of an answer, as a share of the channel's largest input; twice the dtype's precision if more."""
ROWS = 64
"""Rows of a batch at most."""
NEIGHBOURS = 1024
"""Sets of neighbouring channels at most, into which a projection is taken apart."""


@dataclass
class Answer:
    """How the inputs of a layer follow the sets of channels.

    Attributes:
        doubled: ``(sets, in_features)``, the inputs that double with a set.
        clean: ``(sets,)``, whether all others stay as they are.
    """

    doubled: Tensor
    clean: Tensor

    @property
    def carries(self) -> bool:
        return bool(self.clean.all() and self.doubled.any())


@torch.no_grad()
def carried_channels(
    model: PreTrainedModel,
    module: nn.Module,
    channels: int,
    layers: Mapping[str, Layer],
    inputs: Batch,
    mixed_into: Collection[str] = (),
) -> dict[str, Tensor]:
    """For each layer that channels of ``module`` are carried to, which of them each input is.

    Args:
        model: in evaluation mode.
        module: whose output is a tensor ``(..., channels)``.
        channels: how many it gives out.
        layers: the layers to look at; experts of a mixture are not.
        inputs: for the model; the first row is used.
        mixed_into: layers for which a wider output is taken apart.

    Returns:
        By layer ``(in_features,)`` numbers of channels, NOWHERE for an input that is carried from
        none. Layers without any are left out.
    """
    layers = {name: layer for name, layer in layers.items() if layer.expert is None}

    def ask(names: Collection[str], sets: Tensor) -> dict[str, Answer]:
        return _ask(model, module, {name: layers[name] for name in names}, inputs, sets)

    answers = ask(layers, _digits(torch.ones(channels, dtype=torch.bool)))
    found = {name: _numbers(answer) for name, answer in answers.items() if answer.carries}
    mixed = [
        name
        for name in mixed_into
        if name in answers and not answers[name].clean[0] and layers[name].in_features < channels
    ]
    if mixed:
        sets = _neighbours(channels)
        for name, answer in ask(mixed, sets).items():
            alone = sets[answer.clean & answer.doubled.any(dim=1)].any(dim=0)
            if alone.any():
                answer = ask([name], _digits(alone))[name]
                if answer.carries:
                    found[name] = _numbers(answer)
    return found


def _digits(among: Tensor) -> Tensor:
    """``(1 + bits, channels)``: ``among``, and those of it that have bit 0, bit 1, ..."""
    numbers = torch.arange(len(among))
    bits = [(numbers >> bit) & 1 == 1 for bit in range(len(among).bit_length())]
    return torch.stack([among, *(among & bit for bit in bits)])


def _numbers(answer: Answer) -> Tensor:
    """``(in_features,)`` numbers of channels, from an answer to :func:`_digits`."""
    powers = 2 ** torch.arange(len(answer.doubled) - 1)
    numbers = (answer.doubled[1:] * powers[:, None]).sum(dim=0)
    return torch.where(answer.doubled[0], numbers, NOWHERE)


def _neighbours(channels: int) -> Tensor:
    """``(sets, channels)`` of a power of two of neighbours each, so that none spans two heads."""
    width = 1
    while channels // width > NEIGHBOURS and channels % (2 * width) == 0:
        width *= 2
    return torch.eye(channels // width, dtype=torch.bool).repeat_interleave(width, dim=1)


def _ask(
    model: PreTrainedModel,
    module: nn.Module,
    layers: Mapping[str, Layer],
    inputs: Batch,
    sets: Tensor,
) -> dict[str, Answer]:
    parts: dict[str, list[Answer]] = {}
    for some in sets.split(ROWS - 1):
        for name, answer in _forward(model, module, layers, inputs, some).items():
            parts.setdefault(name, []).append(answer)
    return {
        name: Answer(
            torch.cat([answer.doubled for answer in found]),
            torch.cat([answer.clean for answer in found]),
        )
        for name, found in parts.items()
    }


def _forward(
    model: PreTrainedModel,
    module: nn.Module,
    layers: Mapping[str, Layer],
    inputs: Batch,
    sets: Tensor,
) -> dict[str, Answer]:
    """The answers of the layers that are called after ``module``, by their first such call: what
    a shared module does when it is called again is not asked."""
    rows = len(sets) + 1
    factors = torch.cat([torch.ones(1, sets.shape[1]), 1.0 + sets.float()])
    answers: dict[str, Answer] = {}
    called = False

    def replace(_module: nn.Module, _inputs: object, output: object) -> object:
        nonlocal called
        if called or not isinstance(output, Tensor) or output.numel() % factors.numel():
            return output
        called = True
        noise = _noise(output, rows).reshape(rows, -1, sets.shape[1])
        return (noise * factors.to(output)[:, None]).reshape(output.shape)

    def see(name: str, seen: Tensor) -> None:
        if called and name not in answers:
            answers[name] = _answer(seen, rows)

    handle = module.register_forward_hook(replace)
    try:
        with watched(model, layers, see):
            model(**{key: value[:1].repeat_interleave(rows, 0) for key, value in inputs.items()})
    finally:
        handle.remove()
    return answers


def _noise(output: Tensor, rows: int) -> Tensor:
    """Above zero, so that a ReLU lets all of it pass; the same in each of ``rows`` parts."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, output.numel() // rows, generator=generator).abs()
    return one.to(output).expand(rows, -1)


def _answer(seen: Tensor, rows: int) -> Answer:
    """What the inputs of a layer, ``rows`` equal parts of them, say; nothing if they are not."""
    width = seen.shape[-1]
    if seen.numel() % (rows * width):
        nothing = torch.zeros(rows - 1, width, dtype=torch.bool)
        return Answer(nothing, nothing.any(dim=1))
    values = seen.reshape(rows, -1, width)
    before, after = values[:1], values[1:]
    share = max(TOLERANCE, 2 * torch.finfo(seen.dtype).eps)
    room = share * before.abs().amax(dim=1)
    same = (after - before).abs().amax(dim=1) <= room
    doubled = (after - 2 * before).abs().amax(dim=1) <= room
    return Answer((doubled & ~same).cpu(), (doubled | same).all(dim=1).cpu())


@torch.no_grad()
def reached_layers(model: PreTrainedModel, layers: Mapping[str, Layer], inputs: Batch) -> set[str]:
    """Names of the ``layers`` that a forward calls."""
    reached: set[str] = set()
    with watched(model, layers, lambda name, _: reached.add(name)):
        model(**inputs)
    return reached
