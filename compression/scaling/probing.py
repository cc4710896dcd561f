"""Finds which output channels of a module arrive separately at the inputs of later layers.

The output of the module is replaced by noise ``y > 0``, which is the same in each row of a batch
except that row ``r`` has a set of channels ``S_r`` doubled. An input channel ``x_j`` of a later
layer is *carried* from channel ``c`` if, at each token::

    x_j(row r) = 2 x_j   if c is in S_r,        x_j   otherwise

Then ``x_j`` is proportional to ``y_c`` and does not depend on other channels of ``S_r``. The index
``c`` is found from its binary digits: ``S_0`` contains all channels, and ``S_(1+b)`` those whose
index has bit ``b``. A forward pass with ``2 + log2(channels)`` short rows, through one block where
blocks can run on their own, therefore distinguishes values from queries and keys and a gated
product from its gate, and finds how grouped-query attention repeats its heads. The modules in
between can compute anything.

A fused projection also has outputs that are not carried, such as queries and keys beside values, or
a gate beside a product. It is first separated by rows that each double a few neighbouring channels.

Doubling is exact in every floating dtype.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from compression_gates.compression.model.capture import Batch, capture_inputs
from compression_gates.compression.model.layers import Layer
from compression_gates.compression.scaling.passes import Passes, repeated

NO_CHANNEL = -1
"""The channel index of an input that is not carried."""
TOLERANCE = 1e-3
"""Relative to the largest input of a channel; at least twice the precision of the dtype."""
ROWS = 64
"""Largest number of rows of a batch."""
NEIGHBOURS = 1024
"""Largest number of sets into which a fused projection is separated."""


@dataclass
class Response:
    """The response of a layer's inputs to sets of doubled channels.

    Attributes:
        doubled: ``(sets, in_features)``, whether an input doubles with a set.
        unmixed: ``(sets,)``, whether every input either doubles or is unchanged.
    """

    doubled: Tensor
    unmixed: Tensor

    @property
    def carries(self) -> bool:
        return bool(self.unmixed.all() and self.doubled.any())


@torch.no_grad()
def carried_channels(
    passes: Passes,
    module: str,
    channels: int,
    layers: Mapping[str, Layer],
    mixed_into: Collection[str] = (),
) -> dict[str, Tensor]:
    """Return the origin of the inputs of each layer to which channels of ``module`` are carried.

    Args:
        passes: passes of the model on a batch of one row.
        module: the name of a module whose output is a tensor ``(..., channels)``.
        channels: the number of output channels.
        layers: the layers to examine; experts of a mixture are ignored.
        mixed_into: layers for which the module is tried as a fused projection.

    Returns:
        By layer ``(in_features,)`` channel indices, NO_CHANNEL for inputs that are not carried.
        Layers without carried inputs are left out.
    """
    layers = {name: layer for name, layer in layers.items() if layer.expert is None}

    def responses_to(sets: Tensor, names: Collection[str]) -> dict[str, Response]:
        return _responses(passes, module, {name: layers[name] for name in names}, sets)

    responses = responses_to(_digit_sets(torch.ones(channels, dtype=torch.bool)), layers)
    origins = {name: _indices(response) for name, response in responses.items() if response.carries}
    mixed = [
        name
        for name in mixed_into
        if name in responses
        and not responses[name].unmixed[0]
        and layers[name].in_features < channels
    ]
    if mixed:
        sets = _neighbour_sets(channels)
        for name, response in responses_to(sets, mixed).items():
            separate = sets[response.unmixed & response.doubled.any(dim=1)].any(dim=0)
            if separate.any():
                response = responses_to(_digit_sets(separate), [name])[name]
                if response.carries:
                    origins[name] = _indices(response)
    return origins


def _digit_sets(channels: Tensor) -> Tensor:
    """Return ``(1 + bits, channels)``: the given set, and its channels with bit 0, bit 1, ..."""
    indices = torch.arange(len(channels))
    bits = [(indices >> bit) & 1 == 1 for bit in range(len(channels).bit_length())]
    return torch.stack([channels, *(channels & bit for bit in bits)])


def _indices(response: Response) -> Tensor:
    """Return channel indices ``(in_features,)`` from the response to :func:`_digit_sets`."""
    powers = 2 ** torch.arange(len(response.doubled) - 1)
    indices = (response.doubled[1:] * powers[:, None]).sum(dim=0)
    return torch.where(response.doubled[0], indices, NO_CHANNEL)


def _neighbour_sets(channels: int) -> Tensor:
    """Return ``(sets, channels)``, disjoint sets of neighbours.

    Their size is a power of two, so that no set includes channels of two heads.
    """
    width = 1
    while channels // width > NEIGHBOURS and channels % (2 * width) == 0:
        width *= 2
    return torch.eye(channels // width, dtype=torch.bool).repeat_interleave(width, dim=1)


def _responses(
    passes: Passes, module: str, layers: Mapping[str, Layer], sets: Tensor
) -> dict[str, Response]:
    parts: dict[str, list[Response]] = {}
    for some in sets.split(ROWS - 1):
        for name, response in _forward(passes, module, layers, some).items():
            parts.setdefault(name, []).append(response)
    return {
        name: Response(
            torch.cat([part.doubled for part in responses]),
            torch.cat([part.unmixed for part in responses]),
        )
        for name, responses in parts.items()
    }


def _forward(
    passes: Passes, module: str, layers: Mapping[str, Layer], sets: Tensor
) -> dict[str, Response]:
    """Return the responses of layers called after the first call of a module, by name.

    Only the first later call of each layer counts.
    """
    rows = len(sets) + 1
    factors = torch.cat([torch.ones(1, sets.shape[1]), 1.0 + sets.float()])
    responses: dict[str, Response] = {}
    called = False

    def replace(_module: nn.Module, _inputs: object, output: object) -> object:
        nonlocal called
        if called or not isinstance(output, Tensor) or output.numel() % factors.numel():
            return output
        called = True
        noise = _noise(output, rows).reshape(rows, -1, sets.shape[1])
        return (noise * factors.to(output)[:, None]).reshape(output.shape)

    def see(name: str, captured: Tensor) -> None:
        if called and name not in responses:
            responses[name] = _response(captured, rows)

    model, block = passes.model, passes.block_of(module)
    handle = model.get_submodule(module).register_forward_hook(replace)
    try:
        with capture_inputs(model, layers, see):
            if block is None:
                model(**repeated(passes.batch, rows))
                return responses
            for _, output in passes.blocks_from(block, rows):
                # No later layer can then receive a channel of the module on its own.
                if not _doubles(output, rows):
                    break
    finally:
        handle.remove()
    return responses


def _doubles(output: object, rows: int) -> bool:
    """Return whether a part of the output of a block doubles with a set of channels."""
    tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
    return any(bool(_response(tensor, rows).doubled.any()) for tensor in tensors)


def _noise(output: Tensor, rows: int) -> Tensor:
    """Return noise ``(rows, n)``, the same in each row, and positive so that it passes a ReLU."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, output.numel() // rows, generator=generator).abs()
    return row.to(output).expand(rows, -1)


def _response(captured: Tensor, rows: int) -> Response:
    """Return the response in inputs of a layer; a mixed one if they do not consist of ``rows``."""
    width = captured.shape[-1]
    if captured.numel() % (rows * width):
        nothing = torch.zeros(rows - 1, width, dtype=torch.bool)
        return Response(nothing, nothing.any(dim=1))
    values = captured.reshape(rows, -1, width)
    before, after = values[:1], values[1:]
    tolerance = max(TOLERANCE, 2 * torch.finfo(captured.dtype).eps) * before.abs().amax(dim=1)
    same = (after - before).abs().amax(dim=1) <= tolerance
    doubled = (after - 2 * before).abs().amax(dim=1) <= tolerance
    return Response((doubled & ~same).cpu(), (doubled | same).all(dim=1).cpu())


@torch.no_grad()
def reached_layers(model: PreTrainedModel, layers: Mapping[str, Layer], inputs: Batch) -> set[str]:
    """Return the names of the ``layers`` that a forward pass calls."""
    reached: set[str] = set()
    with capture_inputs(model, layers, lambda name, _: reached.add(name)):
        model(**inputs)
    return reached
