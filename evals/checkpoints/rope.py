"""Rotary position embeddings, compared by the frequencies that they rotate with."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from compression_gates.evals.checkpoints.settings import Difference, same

DEFAULT = "default"
BEYOND = 4
"""Times the context that lengths are looked at: scaling may begin behind a part of it."""
_SECTIONS = ("mrope_section", "mrope_interleaved")
"""Parameters that frequencies do not show: which of them rotates time, height and width."""
_SAME_TYPE = {"su": "longrope", "mrope": DEFAULT}


def rope_differences(
    baseline: PretrainedConfig, candidate: PretrainedConfig, longest: int
) -> tuple[list[Difference], bool]:
    """Parameters that rotate queries and keys otherwise, in whichever spelling they are written.

    Args:
        longest: tokens of the longest sequence that is scored.

    Returns:
        The parameters, and whether sequences of up to ``longest`` tokens show their difference.
    """
    one, two = _parameters(baseline), _parameters(candidate)
    found, seen = [], False
    for label in dict.fromkeys((*one, *two)):
        # One set of parameters is that of every type of layer.
        sides = one.get(label, one.get("")), two.get(label, two.get(""))
        if None in sides or same(*sides):
            continue  # of a type that one side has no layer of
        differs = _lengths_that_differ(baseline, candidate, sides, longest)
        if not differs:
            continue
        seen = seen or longest in differs
        prefix = f"rope_parameters.{label}" if label else "rope_parameters"
        names = sorted(sides[0].keys() | sides[1].keys())
        values = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
        # Also a switch that is off where one that is not set is on, as that of YaRN.
        named = [name for name in names if not same(*values[name])] or [
            name for name in names if values[name][0] != values[name][1]
        ]
        found += [Difference(f"{prefix}.{name}", *values[name]) for name in named]
    return found, seen


def _parameters(config: PretrainedConfig) -> dict[str, dict[str, object]]:
    """Parameters by type of layer; under ``""`` where all layers share them."""
    written = getattr(config, "rope_parameters", None) or {}
    labels = config.nested_rope_parameter_keys(written)
    named = {label: written[label] or {} for label in labels} or {"": written}
    return {label: _spelled(parameters) for label, parameters in named.items()}


def _spelled(parameters: Mapping[str, object]) -> dict[str, object]:
    """Parameters by their present names, without those that are not set."""
    found = {name: value for name, value in parameters.items() if value is not None}
    kind = str(found.pop("type", DEFAULT))
    kind = str(found.get("rope_type", kind))
    return {**found, "rope_type": _SAME_TYPE.get(kind, kind)} if found else {}


def _lengths_that_differ(
    baseline: PretrainedConfig,
    candidate: PretrainedConfig,
    sides: Sequence[Mapping[str, object]],
    longest: int,
) -> list[int]:
    """Lengths of sequences at which two sets of parameters rotate otherwise."""
    limits = [getattr(side, "max_position_embeddings", None) or 0 for side in (baseline, candidate)]
    originals = [side.get("original_max_position_embeddings") for side in sides]
    limits += [length for length in originals if type(length) is int]
    lengths = sorted({longest, *limits, BEYOND * max(*limits, longest)} - {0})
    if any(not same(sides[0].get(name), sides[1].get(name)) for name in _SECTIONS):
        return lengths
    try:
        return [
            length
            for length in lengths
            if not _is_same_rotation(
                # Heads of another size are another difference.
                _frequencies(baseline, limits[0], sides[0], length),
                _frequencies(baseline, limits[1], sides[1], length),
            )
        ]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError):
        return lengths  # of a type that transformers does not know, or without what it needs


def _frequencies(
    config: PretrainedConfig, context: int, parameters: Mapping[str, object], length: int
) -> tuple[torch.Tensor, float]:
    """Inverse frequencies ``(dimensions,)`` in a sequence of ``length``, and the scale of both."""
    heads = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if parameters["rope_type"] == DEFAULT:
        size = int(heads * parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, size, 2, dtype=torch.float) / size
        return 1.0 / parameters["rope_theta"] ** exponents, 1.0
    # A configuration of transformers would put what it says of the context in place of what the
    # parameters say, or refuse parameters that are those of one type of its layers.
    asked = SimpleNamespace(
        rope_parameters=dict(parameters),
        max_position_embeddings=context or getattr(config, "max_position_embeddings", None),
        head_dim=heads,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        standardize_rope_params=lambda: None,
    )
    return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](asked, "cpu", seq_len=length)


def _is_same_rotation(one: tuple[torch.Tensor, float], two: tuple[torch.Tensor, float]) -> bool:
    return (
        one[0].shape == two[0].shape
        and torch.allclose(one[0], two[0], rtol=1e-5, atol=0)
        and same(one[1], two[1])
    )
