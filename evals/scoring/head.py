"""The output head of a language model, apart from the model.

A model's logits are its last hidden states times the weights of its head, and in some models
scaled or capped after that. The hidden states are much smaller than the logits, so they are what
is kept of a baseline, and the head is applied to a few of them at a time.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.routing import uncounted

PROBED = 64
"""Number of tokens on which a head is checked against its model."""
_HALF_PRECISION, _EQUAL_SHARE = 1e-4, 0.9
"""In dtypes of 16 bits, whose last digit hides small transforms, most logits must be equal."""
TRANSFORMS: Mapping[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "none": lambda logits, _: logits,
    "cap": lambda logits, cap: torch.tanh(logits / cap) * cap,
    "divide": lambda logits, factor: logits / factor,
    "multiply": lambda logits, factor: logits * factor,
}
"""What a model may do to its logits, given a factor."""
_SETTINGS = {
    "final_logit_softcapping": ("cap",),  # Gemma
    "logits_scaling": ("divide", "multiply"),  # Granite
    "logit_scale": ("multiply",),  # Cohere
    "lm_head_multiplier": ("multiply",),  # Falcon-H1
    "output_multiplier": ("multiply",),
}
"""Transforms by the setting of a model's configuration that has their factor."""


@dataclass(frozen=True)
class Head:
    """Computes logits from last hidden states.

    Attributes:
        project: the linear layer, from ``(rows, hidden)`` to ``(rows, vocabulary)``.
        transform: name of what the model does to its logits, one of :data:`TRANSFORMS`.
        factor: of the transform.
    """

    project: Callable[[torch.Tensor], torch.Tensor]
    transform: str = "none"
    factor: float = 1.0

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return TRANSFORMS[self.transform](self.project(states), self.factor)

    def weights(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """Return the weight and the bias of a linear layer; None if the layer is of another kind,
        such as a quantized one."""
        layer = self.project
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if type(layer) is not nn.Linear or type(weight) is not nn.Parameter or weight.is_meta:
            return None
        return weight.detach(), None if bias is None else bias.detach()


class Predictor:
    """Runs a model up to its head, and applies the head later.

    If the model's logits cannot be computed from its last hidden states, they are used in their
    place.

    Args:
        loaded: a causal model or an encoder-decoder.
        inputs: of one item, on which the head is checked.

    Attributes:
        head: computes logits from the results of :meth:`run`; None if those are logits.
        dtype: of the last hidden states, or of the logits if there is no head.
        logits_dtype: of the logits.
    """

    def __init__(self, loaded: Loaded, inputs: Mapping[str, object]):
        self._model = loaded.model
        self._layer = loaded.model.get_output_embeddings()
        self.head: Head | None = None
        captured: list[torch.Tensor] = []
        hook = self._layer.register_forward_pre_hook(lambda layer, args: captured.extend(args))
        with hook, uncounted():
            logits = self._model(**inputs).logits
        if len(captured) == 1 and _can_be_stopped(self._model, self._layer):
            self.head = _matching_head(self._model, self._layer, captured[0], logits)
        self.dtype = (logits if self.head is None else captured[0]).dtype
        self.logits_dtype = logits.dtype

    def run(self, inputs: Mapping[str, object]) -> torch.Tensor:
        """Return the last hidden states or the logits of all tokens, ``(tokens, width)``."""
        if self.head is None:
            return self._model(**inputs).logits.flatten(0, 1)
        captured: list[torch.Tensor] = []

        def stop(layer: nn.Module, args: tuple) -> None:
            captured.append(args[0])
            raise _StoppedError

        with self._layer.register_forward_pre_hook(stop), suppress(_StoppedError):
            self._model(**inputs)
        return captured[0].flatten(0, 1)

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits for rows of the result of :meth:`run`."""
        return rows if self.head is None else self.head(rows).to(self.logits_dtype)


class _StoppedError(Exception):
    """A forward pass has reached the head."""


def _can_be_stopped(model: nn.Module, layer: nn.Module) -> bool:
    """Return whether the model can be run up to its head.

    A compiled model runs as a whole, and the weights of an offloaded head would be transferred
    for every few rows.
    """
    is_compiled = hasattr(model, "_orig_mod") or model._compiled_call_impl is not None
    return not is_compiled and not getattr(getattr(layer, "_hf_hook", None), "offload", False)


def _matching_head(
    model: nn.Module, layer: nn.Module, states: torch.Tensor, logits: torch.Tensor
) -> Head | None:
    """Return the head that computes ``logits`` from ``states``; None if there is none.

    The layer is applied to two halves, so that one whose result for a row depends on other rows
    is not taken for a match.
    """
    if states.shape[:-1] != logits.shape[:-1]:
        return None
    # accelerate returns the logits of a model on several devices on that of its inputs.
    states, logits = states.flatten(0, 1), logits.flatten(0, 1).to(states.device)
    half = len(states) // 2
    raw = torch.cat([layer(part) for part in (states[:half], states[half:]) if len(part)])
    if raw.shape != logits.shape:
        return None
    config, heads = model.config.get_text_config(decoder=True), [Head(layer)]
    for name, transforms in _SETTINGS.items():
        factor = getattr(config, name, None)
        if isinstance(factor, int | float) and factor:
            heads += [Head(layer, transform, float(factor)) for transform in transforms]
    return next((head for head in heads if _equal(head, raw, logits)), None)


def _equal(head: Head, raw: torch.Tensor, logits: torch.Tensor) -> bool:
    """Return whether a head's transform gives the logits, except for their last digits, which
    depend on the order in which a kernel sums, and so on the number of rows."""
    computed = TRANSFORMS[head.transform](raw, head.factor)
    error = (computed.float() - logits.float()).abs().max()
    epsilon = torch.finfo(raw.dtype).eps
    if epsilon > _HALF_PRECISION and (computed == logits).float().mean() < _EQUAL_SHARE:
        return False
    return bool(error <= 4 * epsilon * logits.float().abs().max())
