"""Scaling of rotary embeddings in GGUF headers and in configurations of transformers.

A GGUF file stores ``linear`` and ``yarn`` scaling as keys, and ``llama3`` and ``longrope`` scaling
as tensors of factors that divide each frequency.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedConfig

from compression_gates.evals.checkpoints.gguf_header import Header
from compression_gates.evals.foreign_text import on_one_line

NONE = "none"
_TOLERANCE = 1e-3
_YARN = {"beta_fast": 32.0, "beta_slow": 1.0}


@dataclass(frozen=True)
class RopeScaling:
    """A scaling of positions.

    Attributes:
        kind: the ``rope_type`` of transformers, or ``none``.
        numbers: parameters by name.
        factors: divisors of the frequencies, each of shape ``(dimensions / 2,)``.
    """

    kind: str = NONE
    numbers: Mapping[str, float] = field(default_factory=dict)
    factors: tuple[np.ndarray, ...] = ()

    def __str__(self) -> str:
        return ", ".join(
            [self.kind, *(f"{name} {value:g}" for name, value in self.numbers.items())]
        )

    def agrees(self, other: "RopeScaling") -> bool:
        """Return whether two scalings are equal in the parameters that both specify."""
        shared = self.numbers.keys() & other.numbers.keys()
        return (
            self.kind == other.kind
            and all(
                math.isclose(self.numbers[name], other.numbers[name], rel_tol=_TOLERANCE)
                for name in shared
            )
            and [f.shape for f in self.factors] == [f.shape for f in other.factors]
            and all(map(_close, self.factors, other.factors))
        )


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(one, other, rtol=_TOLERANCE)


def scaling_of_header(header: Header) -> RopeScaling:
    """Return the scaling that llama.cpp applies."""
    long, short = (header.factors.get(f"rope_factors_{name}") for name in ("long", "short"))
    if long is not None and short is not None:
        return RopeScaling("longrope", factors=(short, long))
    freqs = header.factors.get("rope_freqs")
    if freqs is not None and not np.allclose(freqs, 1):
        return RopeScaling("llama3", {"largest factor": float(freqs.max())}, (freqs,))
    kind = header.get("rope.scaling.type")
    factor = header.number("rope.scaling.factor")
    if kind is None:
        factor = header.number("rope.scale_linear")  # in files from 2023
        kind = "linear" if factor is not None else NONE
    if kind == NONE or factor in (None, 0, 1):
        return RopeScaling()
    numbers = {"factor": factor}
    if kind == "yarn":
        numbers["original context"] = header.number(
            "rope.scaling.original_context_length"
        ) or header.number("context_length")
        for name, default in _YARN.items():
            value = header.number(f"rope.scaling.yarn_{name}")
            numbers[name] = default if value is None else value
    return RopeScaling(
        on_one_line(str(kind))[:20], {name: n for name, n in numbers.items() if n is not None}
    )


def rope_parameters(config: PreTrainedConfig) -> Mapping[str, object]:
    """Return the rotary parameters; those of full attention if they depend on the type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters and all(isinstance(part, Mapping) for part in parameters.values()):
        return parameters.get("full_attention") or next(iter(parameters.values()))
    return parameters


def rotated_dimensions(config: PreTrainedConfig) -> int | None:
    """Return how many dimensions of a head are rotated; None without a rotary embedding."""
    parameters = rope_parameters(config)
    if not parameters:
        return None
    for name in ("qk_rope_head_dim", "rotary_dim"):
        if getattr(config, name, None):
            return getattr(config, name)
    name = "partial_rotary_factor"
    share = parameters.get(name) or getattr(config, name, None)
    return int(head_dimensions(config) * (share or 1))


def head_dimensions(config: PreTrainedConfig) -> int:
    """Return the size of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def scaling_of_config(config: PreTrainedConfig) -> RopeScaling:
    """Return the scaling that transformers applies."""
    parameters = rope_parameters(config)
    kind = parameters.get("rope_type") or NONE
    if kind == "longrope":
        names = "short_factor", "long_factor"
        return RopeScaling(kind, factors=tuple(np.array(parameters[name]) for name in names))
    if kind == "llama3":
        factors = _llama3_factors(parameters, rotated_dimensions(config))
        return RopeScaling(kind, {"largest factor": float(factors.max())}, (factors,))
    factor = parameters.get("factor")
    if kind in (NONE, "default", "mrope") or factor in (None, 1):
        return RopeScaling()
    numbers = {"factor": factor}
    if kind == "yarn":
        numbers["original context"] = parameters.get("original_max_position_embeddings")
        numbers |= {name: parameters.get(name) or default for name, default in _YARN.items()}
    return RopeScaling(kind, {name: float(n) for name, n in numbers.items() if n is not None})


def attention_factor_of_header(header: Header) -> float:
    """Return the factor of queries and keys, relative to the one that follows from the scaling."""
    names = "attn_factor", "yarn_attn_factor"
    factors = [header.number(f"rope.scaling.{name}") for name in names]
    return math.prod(1.0 if factor is None else factor for factor in factors)


def attention_factor_of_config(config: PreTrainedConfig) -> float | None:
    """Return the same factor of a configuration; None if llama.cpp derives it differently."""
    parameters = rope_parameters(config)
    kind, factor = parameters.get("rope_type") or NONE, parameters.get("attention_factor")
    if kind == "yarn":
        if parameters.get("mscale") or parameters.get("mscale_all_dim"):
            return None
        default = 0.1 * math.log(parameters.get("factor") or 1) + 1
        return 1.0 if factor is None else factor / default
    if kind == "longrope":
        original = parameters.get("original_max_position_embeddings")
        whole = getattr(config, "max_position_embeddings", None)
        if factor is not None or not original or not whole:
            return factor
        ratio = whole / original
        return math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return 1.0


def _llama3_factors(parameters: Mapping[str, float], dimensions: int) -> np.ndarray:
    """Return the divisors of Llama 3.1, of shape ``(dimensions / 2,)``.

    They are ``factor`` for low frequencies, 1 for high ones, and interpolated between these.
    """
    frequencies = parameters["rope_theta"] ** (-np.arange(0, dimensions, 2) / dimensions)
    turns = parameters["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / parameters["factor"] + smooth)
