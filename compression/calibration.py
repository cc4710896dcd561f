"""Statistics of the inputs of layers, from calibration batches through the model's own forward.

Layers are visited block by block, in the order in which the forward reaches them; a visitor may
change the layers of a block before the next block is visited, so later statistics are those of
the partly compressed model (as in SparseGPT and Wanda). The model is called as it is with
whatever the batch holds, so nothing here knows an architecture. A block that is used several
times (ALBERT shares its one layer) is visited once, with the inputs of all its uses.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from compression.errors import CompressionError

Batch = Mapping[str, Tensor]


class InputStatistics:
    """Second moments of a layer's inputs, accumulated token by token in float32 or better.

    Attributes:
        tokens: how many inputs were seen.
        squares: ``(features,)`` sum of squares, in float64.
        products: ``(features, features)`` sum of outer products, or None if not asked for.
    """

    def __init__(self, features: int, device: torch.device, with_products: bool):
        self.tokens = 0
        self.squares = torch.zeros(features, dtype=torch.float64, device=device)
        self.products = torch.zeros(features, features, device=device) if with_products else None

    def add(self, inputs: Tensor) -> None:
        """``inputs`` ``(tokens, features)``."""
        inputs = inputs.float()
        self.tokens += inputs.shape[0]
        self.squares += inputs.double().square().sum(dim=0)
        if self.products is not None:
            self.products += inputs.T @ inputs

    @property
    def norm(self) -> Tensor:
        """``||X_j||_2`` of every feature, over all tokens."""
        return self.squares.sqrt()

    @property
    def hessian(self) -> Tensor:
        """``2 X X^T / tokens``."""
        return self.products * (2.0 / self.tokens)


class _Stop(Exception):  # noqa: N818 - no error, a way out
    """Raised inside a forward once nothing of interest is left to run."""


@contextmanager
def _hooked(layers: Iterable[nn.Module], hook) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _calls(model: PreTrainedModel, layers: Mapping[str, nn.Linear], batch: Batch) -> list[str]:
    """Names of the layers in the order in which one forward calls them, repeats included."""
    names = {id(layer): name for name, layer in layers.items()}
    order: list[str] = []
    with _hooked(layers.values(), lambda layer, _: order.append(names[id(layer)])):
        model(**batch)
    missing = [name for name in layers if name not in set(order)]
    if missing:
        raise CompressionError(
            f"layer {missing[0]}: no calibration input reached it; exclude it from the recipe"
        )
    return order


def blocks(model: PreTrainedModel, names: Sequence[str]) -> list[list[str]]:
    """``names`` grouped by the block that holds them; a layer outside any block stands alone.

    A block is a member of an outermost :class:`torch.nn.ModuleList`.
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    grouped: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        outer = next((x for x in lists if name.startswith(x + ".")), None)
        key = name if outer is None else f"{outer}.{name[len(outer) + 1 :].split('.')[0]}"
        grouped.setdefault(key, []).append(name)
    return list(grouped.values())


def _tokens(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """``inputs`` as ``(tokens, features)`` without padding.

    Inputs that do not run along the mask (a pooler's, say) count whole.
    """
    flat = inputs.flatten(0, -2)
    if mask is not None and inputs.shape[:-1] in (mask.shape, (mask.numel(),)):
        return flat[mask.flatten().bool()]
    return flat


@torch.no_grad()
def visit_blocks(
    model: PreTrainedModel,
    layers: Mapping[str, nn.Linear],
    batches: Sequence[Batch],
    with_products: bool,
    desc: str = "calibrating",
) -> Iterator[dict[str, InputStatistics]]:
    """Yields the input statistics of each block's layers, by name, block after block.

    What the consumer does to a block's layers before asking for the next is seen by it.

    Raises:
        CompressionError: no batch, a layer that no input reaches, or inputs that are not finite.
    """
    if not batches:
        raise CompressionError("calibration needs at least one batch of text")
    order = _calls(model, layers, batches[0])
    for block in tqdm(blocks(model, order), desc=desc, unit="block", leave=False, disable=None):
        members = {name: layers[name] for name in block}
        statistics = _collect(model, members, batches, order, with_products)
        for name, seen in statistics.items():
            if not seen.squares.isfinite().all():
                raise CompressionError(f"layer {name}: its calibration inputs are not finite")
        yield statistics


def _collect(
    model: PreTrainedModel,
    members: Mapping[str, nn.Linear],
    batches: Sequence[Batch],
    order: Sequence[str],
    with_products: bool,
) -> dict[str, InputStatistics]:
    names = {id(layer): name for name, layer in members.items()}
    statistics = {
        name: InputStatistics(layer.in_features, layer.weight.device, with_products)
        for name, layer in members.items()
    }
    uses = sum(order.count(name) for name in members)
    for batch in batches:
        left = uses

        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], batch: Batch = batch) -> None:
            nonlocal left
            statistics[names[id(layer)]].add(_tokens(inputs[0], batch.get("attention_mask")))
            left -= 1
            if not left:
                raise _Stop

        with _hooked(members.values(), hook), suppress(_Stop):
            model(**batch)
    return statistics
