"""Number of tokens that each expert of a mixture receives while a data set is scored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import nn

from compression_gates.evals.checkpoints.names import EXPERT_COUNTS

_counted: ContextVar[bool] = ContextVar("counted", default=True)


@contextmanager
def uncounted() -> Iterator[None]:
    """Count no tokens in passes inside the block, which are not part of scoring."""
    token = _counted.set(False)
    try:
        yield
    finally:
        _counted.reset(token)


@contextmanager
def count_expert_tokens(model: nn.Module) -> Iterator[Callable[[], dict[str, np.ndarray]]]:
    """Count the tokens that each expert receives inside the block; padding is not counted.

    A layer of experts is a module that has the weights of all its experts in one parameter, as in
    transformers, and that receives the indices of the experts of each token as an input.

    Yields:
        A function that returns the array ``experts`` ``(layers, experts)``, the number of tokens of
        each expert, or an empty mapping for a model without experts. If the tokens of an expert
        cannot be determined, the array is empty.
    """
    counter = _ExpertCounter()
    handles = [model.register_forward_pre_hook(counter.set_mask, with_kwargs=True)]
    for module in model.modules():
        if _has_expert_weights(module):
            handles.append(module.register_forward_pre_hook(counter.count, with_kwargs=True))
    try:
        yield lambda: {"experts": counter.counts()} if _is_mixture(model) else {}
    finally:
        for handle in handles:
            handle.remove()


def _is_mixture(model: nn.Module) -> bool:
    config = model.config.get_text_config()
    return any((getattr(config, name, None) or 0) > 1 for name in EXPERT_COUNTS)


def _has_expert_weights(module: nn.Module) -> bool:
    experts = getattr(module, "num_experts", None)
    return isinstance(experts, int) and any(
        parameter.ndim == 3 and len(parameter) == experts
        for parameter in module.parameters(recurse=False)
    )


class _ExpertCounter:
    """Forward hooks that count tokens by layer and expert."""

    def __init__(self):
        self._mask: torch.Tensor | None = None  # of the batch that is running
        self._counts: dict[nn.Module, torch.Tensor] = {}

    def set_mask(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        mask = kwargs.get("attention_mask")
        self._mask = mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None

    def count(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        routing = _routing([*args, *kwargs.values()], module.num_experts)
        if routing is None or not _counted.get():
            return
        mask = self._token_mask(len(routing))
        if mask is not None:
            routing = routing & mask.to(routing.device)[:, None]
        self._counts[module] = self._counts.get(module, 0) + routing.sum(0)

    def _token_mask(self, count: int) -> torch.Tensor | None:
        """Return which of the ``count`` tokens of this pass are not padding; None if unknown."""
        if self._mask is None or count % len(self._mask):
            return None
        new = count // len(self._mask)  # with a cache, a pass receives only the last tokens
        return self._mask[:, -new:].reshape(-1).bool() if new <= self._mask.shape[1] else None

    def counts(self) -> np.ndarray:
        layers = [counts.cpu().numpy() for counts in self._counts.values()]
        same = len({len(layer) for layer in layers}) == 1
        return np.stack(layers) if same else np.zeros((0, 0), np.int64)


def _routing(inputs: list, experts: int) -> torch.Tensor | None:
    """Return ``(tokens, experts)``, whether a token is routed to an expert.

    Args:
        inputs: all inputs of a layer of experts.
        experts: the number of experts.

    Returns:
        None if the inputs do not determine it.
    """
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    for indices in tensors:
        if indices.is_floating_point() or indices.ndim < 2:
            continue
        indices = indices.reshape(-1, indices.shape[-1])
        if _is_one_hot(indices, experts):
            return indices.bool()
        # An index beyond the last expert stands for no expert.
        routing = torch.zeros(len(indices), experts + 1, dtype=torch.bool, device=indices.device)
        return routing.scatter_(1, indices.long().clamp(max=experts), True)[:, :experts]
    if len(tensors) == 1 and tensors[0].ndim == 2 and len(tensors[0]) % experts == 0:
        # Llama 4: every expert receives all tokens, and those of other experts are zero.
        return (tensors[0] != 0).any(-1).view(experts, -1).T
    return None


def _is_one_hot(columns: torch.Tensor, experts: int) -> bool:
    """Return whether ``columns`` ``(tokens, chosen)`` has one 0/1 column for each expert.

    The indices of tokens that are routed to all experts have the same shape. Each of their rows is
    a permutation of the experts. With two experts of which one is chosen, integer columns look the
    same and are read as indices.
    """
    if columns.shape[-1] != experts:
        return False
    if columns.dtype == torch.bool:
        return True
    order = torch.arange(experts, device=columns.device)
    is_binary = int(columns.max()) <= 1
    return is_binary and not (columns.sort(-1).values == order).all(-1).any()
