"""Which experts of a mixture the tokens of a data set reach, counted while it is scored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from compression_gates.evals.checkpoints.names import EXPERT_COUNTS

EXPERTS = "experts"
"""The array of :func:`routed`."""


@contextmanager
def routed(model: nn.Module) -> Iterator[Callable[[], dict[str, np.ndarray]]]:
    """Counts the tokens that reach each expert inside the block; padding is not counted.

    A layer of experts is a module that holds their weights in one parameter, as transformers keeps
    them, and is given the indices of the experts of each token.

    Yields:
        A function that gives ``experts`` ``(layers, experts)``, the number of tokens of each, and
        nothing for a model without experts. Where they cannot be told, there are no layers.
    """
    counter = _Counter()
    handles = [model.register_forward_pre_hook(counter.see_mask, with_kwargs=True)]
    for module in model.modules():
        if _holds_experts(module):
            handles.append(module.register_forward_pre_hook(counter.count, with_kwargs=True))
    try:
        yield lambda: counter.arrays() if _has_experts(model) else {}
    finally:
        for handle in handles:
            handle.remove()


def _has_experts(model: nn.Module) -> bool:
    config = model.config.get_text_config()
    return any((getattr(config, name, None) or 0) > 1 for name in EXPERT_COUNTS)


def _holds_experts(module: nn.Module) -> bool:
    experts = getattr(module, "num_experts", None)
    return isinstance(experts, int) and any(
        parameter.ndim == 3 and len(parameter) == experts
        for parameter in module.parameters(recurse=False)
    )


class _Counter:
    """Tokens by layer and expert, and the mask of the batch that is running."""

    def __init__(self):
        self._mask: torch.Tensor | None = None
        self._counts: dict[nn.Module, torch.Tensor] = {}

    def see_mask(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        mask = kwargs.get("attention_mask")
        self._mask = mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None

    def count(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        reached = _reached([*args, *kwargs.values()], module.num_experts)
        if reached is None:
            return
        mask = self._tokens(len(reached))
        counted = (reached if mask is None else reached & mask.to(reached.device)[:, None]).sum(0)
        self._counts[module] = self._counts.get(module, 0) + counted

    def _tokens(self, count: int) -> torch.Tensor | None:
        """Which of the tokens of this pass are no padding; of a cached one the last are new."""
        if self._mask is None or count % len(self._mask):
            return None
        new = count // len(self._mask)
        return self._mask[:, -new:].reshape(-1).bool() if new <= self._mask.shape[1] else None

    def arrays(self) -> dict[str, np.ndarray]:
        layers = [counts.cpu().numpy() for counts in self._counts.values()]
        same = len({len(layer) for layer in layers}) == 1
        return {EXPERTS: np.stack(layers) if same else np.zeros((0, 0), np.int64)}


def _reached(inputs: list, experts: int) -> torch.Tensor | None:
    """``(tokens, experts)`` whether a token reaches an expert, from what experts are given; None
    where it cannot be told."""
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    for indices in tensors:
        if indices.is_floating_point() or indices.ndim < 2:
            continue
        indices = indices.reshape(-1, indices.shape[-1])
        if _is_one_hot(indices, experts):
            return indices.bool()
        found = torch.zeros(len(indices), experts + 1, dtype=torch.bool, device=indices.device)
        # An index beyond the last expert stands for none.
        return found.scatter_(1, indices.long().clamp(max=experts), True)[:, :experts]
    if len(tensors) == 1 and tensors[0].ndim == 2 and len(tensors[0]) % experts == 0:
        # Every expert is given all tokens, as zeros where they are not for it.
        return (tensors[0] != 0).any(-1).view(experts, -1).T
    return None


def _is_one_hot(given: torch.Tensor, experts: int) -> bool:
    """Whether ``given`` ``(tokens, chosen)`` has one column for each expert.

    The indices of a token that goes to all experts are as many; they are told by their order, a
    permutation. Of two experts, one chosen, integer columns look the same and count as indices.
    """
    if given.shape[-1] != experts:
        return False
    if given.dtype == torch.bool:
        return True
    order = torch.arange(experts, device=given.device)
    return int(given.max()) <= 1 and not (given.sort(-1).values == order).all(-1).any()
