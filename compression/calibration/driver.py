"""What layers see and how the loss feels them, from calibration batches through the model itself.

The model is called as it is with whatever a batch holds, so nothing here knows an architecture.
Methods are handed statistics and never a batch: how often the model runs, and in which order
layers are visited, is decided here alone. Today every block is visited by a pass of its own, so
that later statistics are those of the partly compressed model (as in SparseGPT and Wanda). A
block that is used several times (ALBERT shares its one layer) is visited once, with the inputs of
all its uses. Layers that are given the same tensor share their statistics.
"""

import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from compression_gates.compression.calibration.silent_experts import SilentExpert
from compression_gates.compression.errors import CompressionError, unreached
from compression_gates.compression.model.capture import Batch, one_by_one, watched, without_cache
from compression_gates.compression.model.gradients import is_seq2seq
from compression_gates.compression.model.layers import Layer


class InputStatistics:
    """Moments of a layer's inputs, accumulated token by token in float32 or better.

    Attributes:
        tokens: how many inputs were seen.
        squares: ``(features,)`` sum of squares, in float64.
        absolutes: ``(features,)`` sum of absolute values, in float64.
        largest: ``(features,)`` largest absolute value.
        products: ``(features, features)`` sum of outer products, or None if not asked for.
    """

    def __init__(self, features: int, device: torch.device, with_products: bool):
        self.tokens = 0
        self.squares = torch.zeros(features, dtype=torch.float64, device=device)
        self.absolutes = torch.zeros(features, dtype=torch.float64, device=device)
        self.largest = torch.zeros(features, device=device)
        self.products = torch.zeros(features, features, device=device) if with_products else None

    def add(self, inputs: Tensor) -> None:
        """``inputs`` ``(tokens, features)``."""
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
        """``||X_j||_2`` of every feature, over all tokens."""
        return self.squares.sqrt()

    @property
    def mean_magnitude(self) -> Tensor:
        """Mean of ``|X_j|`` of every feature."""
        return (self.absolutes / max(self.tokens, 1)).float()

    @property
    def hessian(self) -> Tensor:
        """``2 X X^T / tokens``."""
        return self.products * (2.0 / max(self.tokens, 1))


class _Stop(Exception):  # noqa: N818 - no error, a way out
    """Raised inside a forward once nothing of interest is left to run."""


def blocks(model: PreTrainedModel, names: Sequence[str]) -> dict[str, list[str]]:
    """``names`` grouped by the block that holds them, by its name; a layer outside any block
    stands alone under its own.

    A block is a member of an outermost :class:`torch.nn.ModuleList`.
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
    """Yields the input statistics of each block's layers, by name, block after block.

    What the consumer does to a block's layers before asking for the next is seen by it. An
    expert of a mixture that no token was sent to has statistics of no token, and is warned of.

    Raises:
        CompressionError: no batch, a layer that no input reaches, or inputs that are not finite.
    """
    with without_cache(model):
        batches = _checked(model, layers, batches)
        order, leaders = _first_pass(model, layers, batches[0])
        found = blocks(model, order).values()
        for block in tqdm(found, desc=desc, unit="block", leave=False, disable=None):
            members = {name: layers[name] for name in block}
            yield _collect(model, layers, members, batches, order, leaders, with_products)


@torch.no_grad()
def collect(
    model: PreTrainedModel,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    with_products: bool,
) -> dict[str, InputStatistics]:
    """The input statistics of all layers of the model as it is, in one pass.

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
    """The batches, one text at a time where padding could not be told from text inside."""
    if not batches:
        raise CompressionError("calibration needs at least one batch of text")
    seq2seq = is_seq2seq(model)
    if seq2seq or any(layer.routed for layer in layers.values()):
        return [row for batch in batches for row in one_by_one(batch, seq2seq)]
    return batches


def _first_pass(
    model: PreTrainedModel, layers: Mapping[str, Layer], batch: Batch
) -> tuple[list[str], dict[str, str]]:
    """Names of the layers in the order in which one forward calls them, repeats included; and for
    each layer the first one that is given the same tensors."""
    order: list[str] = []
    given: dict[str, list[int]] = {}
    seen: list[weakref.ref] = []

    def see(name: str, inputs: Tensor) -> None:
        order.append(name)
        number = next((i for i, known in enumerate(seen) if known() is inputs), len(seen))
        if number == len(seen):
            seen.append(weakref.ref(inputs))
        given.setdefault(name, []).append(number)

    with watched(model, layers, see):
        model(**batch)
    for name, layer in layers.items():
        if name not in given and not layer.routed:
            raise unreached(name)
    order += [name for name in layers if name not in given]
    first: dict[tuple[int, ...], str] = {}
    leaders = {
        name: name if layers[name].routed else first.setdefault(tuple(numbers), name)
        for name, numbers in given.items()
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
    """Statistics of ``members``; a forward ends once nothing of theirs is left to run."""
    statistics: dict[str, InputStatistics] = {}
    counted: dict[str, str] = {}
    for name, layer in members.items():
        first = counted.setdefault(leaders.get(name, name), name)
        statistics[name] = statistics.get(first) or InputStatistics(
            layer.in_features, layer.stored.device, with_products
        )
    uses = sum(order.count(name) for name, layer in members.items() if not layer.routed)
    routed = any(layer.routed for layer in members.values())
    for batch in batches:
        left = uses

        def see(name: str, inputs: Tensor, batch: Batch = batch) -> None:
            nonlocal left
            if name not in members:
                # Experts are called no fixed number of times: with them alone, all of it runs.
                if uses and not left:
                    raise _Stop
                return
            if counted[leaders.get(name, name)] == name:
                statistics[name].add(_tokens(inputs, batch.get("attention_mask")))
            left -= not members[name].routed
            if not left and not routed:
                raise _Stop

        with watched(model, layers if routed else members, see), suppress(_Stop):
            model(**batch)
    for name, seen in statistics.items():
        if not seen.squares.isfinite().all():
            raise CompressionError(f"layer {name}: its calibration inputs are not finite")
        if not seen.tokens:
            warnings.warn(name, SilentExpert, stacklevel=3)
    return statistics


def _tokens(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """``inputs`` as ``(tokens, features)`` without padding.

    Inputs that do not run along the mask (a pooler's, say) count whole.
    """
    flat = inputs.flatten(0, -2)
    if mask is not None and inputs.shape[:-1] in (mask.shape, (mask.numel(),)):
        return flat[mask.flatten().bool()]
    return flat
