"""Scaling of rotary embeddings, as a GGUF header has it and as a configuration of transformers.

llama.cpp keeps ``linear`` and ``yarn`` as keys; ``llama3`` and ``longrope`` as tensors of factors
that each frequency is divided by.
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
    """How positions are scaled.

    Attributes:
        kind: ``none``, or as transformers calls it.
        numbers: what it depends on, by name.
        factors: what frequencies are divided by, ``(dimensions / 2,)`` each.
    """

    kind: str = NONE
    numbers: Mapping[str, float] = field(default_factory=dict)
    factors: tuple[np.ndarray, ...] = ()

    def __str__(self) -> str:
        return ", ".join(
            [self.kind, *(f"{name} {value:g}" for name, value in self.numbers.items())]
        )

    def agrees(self, other: "RopeScaling") -> bool:
        """Whether two scale alike; a number that one of them does not give says nothing."""
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
    """What llama.cpp scales by."""
    long, short = (header.factors.get(f"rope_factors_{name}") for name in ("long", "short"))
    if long is not None and short is not None:
        return RopeScaling("longrope", factors=(short, long))
    freqs = header.factors.get("rope_freqs")
    if freqs is not None and not np.allclose(freqs, 1):
        return RopeScaling("llama3", {"largest factor": float(freqs.max())}, (freqs,))
    kind = header.get("rope.scaling.type")
    factor = header.number("rope.scaling.factor")
    if kind is None:
        factor = header.number("rope.scale_linear")  # of files from 2023
        kind = "linear" if factor is not None else NONE
    if kind == NONE or factor in (None, 0, 1):
        return RopeScaling()
    numbers = {"factor": factor}
    if kind == "yarn":
        numbers["original context"] = header.number(
            "rope.scaling.original_context_length"
        ) or header.number("context_length")
        for name, usual in _YARN.items():
            held = header.number(f"rope.scaling.yarn_{name}")
            numbers[name] = usual if held is None else held
    return RopeScaling(
        on_one_line(str(kind))[:20], {name: n for name, n in numbers.items() if n is not None}
    )


def rope_parameters(config: PreTrainedConfig) -> Mapping[str, object]:
    """Those of a configuration; of the layers with full attention where kinds of layers differ."""
    found = getattr(config, "rope_parameters", None) or {}
    if found and all(isinstance(part, Mapping) for part in found.values()):
        return found.get("full_attention") or next(iter(found.values()))
    return found


def rotated_dimensions(config: PreTrainedConfig) -> int | None:
    """Dimensions of a head that are rotated; None of a model without rotary embedding."""
    given = rope_parameters(config)
    if not given:
        return None
    for name in ("qk_rope_head_dim", "rotary_dim"):
        if getattr(config, name, None):
            return getattr(config, name)
    share = given.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None)
    return int(head_dimensions(config) * (share or 1))


def head_dimensions(config: PreTrainedConfig) -> int:
    """Dimensions of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def scaling_of_config(config: PreTrainedConfig) -> RopeScaling:
    """What transformers scales by."""
    given = rope_parameters(config)
    kind = given.get("rope_type") or NONE
    if kind == "longrope":
        return RopeScaling(
            kind, factors=tuple(np.array(given[f"{name}_factor"]) for name in ("short", "long"))
        )
    if kind == "llama3":
        factors = _llama3(given, rotated_dimensions(config))
        return RopeScaling(kind, {"largest factor": float(factors.max())}, (factors,))
    factor = given.get("factor")
    if kind in (NONE, "default", "mrope") or factor in (None, 1):
        return RopeScaling()
    numbers = {"factor": factor}
    if kind == "yarn":
        numbers["original context"] = given.get("original_max_position_embeddings")
        numbers |= {name: given.get(name) or usual for name, usual in _YARN.items()}
    return RopeScaling(kind, {name: float(n) for name, n in numbers.items() if n is not None})


def attention_factor_of_header(header: Header) -> float:
    """What llama.cpp multiplies queries and keys by, beside what it derives from the scaling."""
    names = "attn_factor", "yarn_attn_factor"
    found = [header.number(f"rope.scaling.{name}") for name in names]
    return math.prod(1.0 if value is None else value for value in found)


def attention_factor_of_config(config: PreTrainedConfig) -> float | None:
    """The same of a configuration; None where llama.cpp derives it in a way of its own."""
    given = rope_parameters(config)
    kind, asked = given.get("rope_type") or NONE, given.get("attention_factor")
    if kind == "yarn":
        if given.get("mscale") or given.get("mscale_all_dim"):
            return None
        usual = 0.1 * math.log(given.get("factor") or 1) + 1
        return 1.0 if asked is None else asked / usual
    if kind == "longrope":
        original = given.get("original_max_position_embeddings")
        whole = getattr(config, "max_position_embeddings", None)
        if asked is not None or not original or not whole:
            return asked
        factor = whole / original
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return 1.0


def _llama3(given: Mapping[str, float], dimensions: int) -> np.ndarray:
    """What Llama 3.1 divides frequencies by: long waves by the factor, short ones by 1, and those
    between by something between."""
    frequencies = given["rope_theta"] ** (-np.arange(0, dimensions, 2) / dimensions)
    turns = given["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / given["factor"] + smooth)
