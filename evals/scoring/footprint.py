"""What the loaded weights are: how many, how many zeros, and which N:M patterns hold."""

import numpy as np
import torch
from torch import nn

from evals.formats import LORA, PLAIN
from evals.scoring.loading import Loaded, is_plain, linear_weights

PATTERNS = ((2, 4), (4, 8))
_CODES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn,
          torch.float8_e5m2)  # fmt: skip
_AUXILIARY = ("_scale", "_shape", "_packed", "_zero_point", "_g_idx")


def holds_pattern(weight: torch.Tensor, n: int, m: int) -> bool:
    """Whether at most ``n`` of every ``m`` consecutive weights of each row are not zero."""
    if weight.shape[1] % m:
        return False
    return bool(((weight != 0).unflatten(1, (-1, m)).sum(-1) <= n).all())


def holds_codes(model: nn.Module) -> bool:
    """Whether the model computes with weights as they are stored, in codes and not in numbers."""
    return any(
        tensor.ndim >= 2 and (tensor.dtype in _CODES or not is_plain(tensor))
        for tensor in model.state_dict().values()
    )


def footprint(loaded: Loaded) -> dict[str, np.ndarray]:
    """Counts over the weights that the model computes with.

    Returns:
        ``parameters``; over the linear layers inside the backbone ``weights``, ``zeros`` and, for
        each of :data:`PATTERNS`, ``layers_2_4`` and so on, the layers where the pattern holds;
        ``layers``, their number; and ``unpacked``, 1 where weights were stored in fewer bits than
        they are computed with, so that kernels for them are not used.
    """
    model = loaded.model
    inside = {id(module) for module in model.base_model.modules()}
    modules = dict(model.named_modules())
    weights = [
        weight
        for name, weight in linear_weights(model).items()
        if id(modules[name]) in inside
        and is_plain(weight)
        and weight.is_floating_point()
        and not weight.is_meta
    ]
    own = [p for name, p in model.named_parameters() if not name.endswith(_AUXILIARY)]
    counts = {
        "parameters": sum(parameter.numel() for parameter in own),
        "weights": sum(weight.numel() for weight in weights),
        "zeros": sum(int((weight == 0).sum()) for weight in weights),
        "layers": len(weights),
        "unpacked": loaded.checkpoint.form not in (PLAIN, LORA) and not holds_codes(model),
    }
    for n, m in PATTERNS:
        counts[f"layers_{n}_{m}"] = sum(holds_pattern(weight, n, m) for weight in weights)
    return {name: np.array(count) for name, count in counts.items()}
