"""Comparison of rotary position embeddings by the frequencies of their rotations."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from compression_gates.evals.checkpoints.setting_kinds import Difference, same

DEFAULT = "default"
BEYOND = 4
"""Factor by which the longest compared length exceeds the context: scaling may begin beyond it."""
_SECTIONS = ("mrope_section", "mrope_interleaved")
"""Parameters that assign frequencies to time, height and width, and do not change them."""
_SAME_TYPE = {"su": "longrope", "mrope": DEFAULT}


def rope_differences(
    baseline: PretrainedConfig, candidate: PretrainedConfig, longest: int, prefix: str = ""
) -> tuple[list[Difference], bool]:
    """Compare how two configurations rotate queries and keys, in whichever spelling.

    Args:
        baseline, candidate: the configurations.
        longest: number of tokens of the longest scored sequence.
        prefix: precedes the names of parameters.

    Returns:
        The parameters that differ, and whether sequences of up to ``longest`` tokens are affected.
    """
    before, after = _parameters(baseline), _parameters(candidate)
    differences, is_visible = [], False
    for layer_type in dict.fromkeys((*before, *after)):
        # Parameters that all layers share apply to each type of layer.
        sides = before.get(layer_type, before.get("")), after.get(layer_type, after.get(""))
        if None in sides or same(*sides):
            continue  # without parameters, the model has no layer of this type
        lengths = _lengths_that_differ(baseline, candidate, sides, longest)
        if not lengths:
            continue
        is_visible = is_visible or longest in lengths
        path = f"{prefix}rope_parameters" + (f".{layer_type}" if layer_type else "")
        names = sorted(sides[0].keys() | sides[1].keys())
        values = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
        # If all values are equivalent, the cause is one whose default is not off, as in YaRN.
        changed = [name for name in names if not same(*values[name])] or [
            name for name in names if values[name][0] != values[name][1]
        ]
        differences += [Difference(f"{path}.{name}", *values[name]) for name in changed]
    return differences, is_visible


def _parameters(config: PretrainedConfig) -> dict[str, dict[str, object]]:
    """Return the parameters by type of layer; the key is ``""`` if all layers share them."""
    written = getattr(config, "rope_parameters", None) or {}
    layer_types = config.nested_rope_parameter_keys(written)
    by_type = {name: written[name] or {} for name in layer_types} or {"": written}
    return {name: _normalized(parameters) for name, parameters in by_type.items()}


def _normalized(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters that are set, by their present names."""
    values = {name: value for name, value in parameters.items() if value is not None}
    old_name = str(values.pop("type", DEFAULT))
    rope_type = str(values.get("rope_type", old_name))
    return {**values, "rope_type": _SAME_TYPE.get(rope_type, rope_type)} if values else {}


def _lengths_that_differ(
    baseline: PretrainedConfig,
    candidate: PretrainedConfig,
    sides: Sequence[Mapping[str, object]],
    longest: int,
) -> list[int]:
    """Return the lengths of sequences for which two sets of parameters rotate differently."""
    contexts = [
        getattr(config, "max_position_embeddings", None) or 0 for config in (baseline, candidate)
    ]
    originals = [side.get("original_max_position_embeddings") for side in sides]
    limits = contexts + [length for length in originals if type(length) is int]
    lengths = sorted({longest, *limits, BEYOND * max(*limits, longest)} - {0})
    if any(not same(sides[0].get(name), sides[1].get(name)) for name in _SECTIONS):
        return lengths
    try:
        return [
            length
            for length in lengths
            if not _is_same_rotation(
                # Another size of heads is reported separately, so both use the baseline's.
                _frequencies(baseline, contexts[0], sides[0], length),
                _frequencies(baseline, contexts[1], sides[1], length),
            )
        ]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError):
        return lengths  # unknown type, or a missing parameter


def _frequencies(
    config: PretrainedConfig, context: int, parameters: Mapping[str, object], length: int
) -> tuple[torch.Tensor, float]:
    """Return inverse frequencies ``(dimensions,)`` for a sequence of ``length`` tokens, and the
    attention scaling factor."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if parameters["rope_type"] == DEFAULT:
        size = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, size, 2, dtype=torch.float) / size
        return 1.0 / parameters["rope_theta"] ** exponents, 1.0
    # A configuration of transformers would overwrite the context length in the parameters, and
    # refuse the parameters of a single type of layers.
    stand_in = SimpleNamespace(
        rope_parameters=dict(parameters),
        max_position_embeddings=context or getattr(config, "max_position_embeddings", None),
        head_dim=head_dim,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        standardize_rope_params=lambda: None,
    )
    return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](stand_in, "cpu", seq_len=length)


def _is_same_rotation(one: tuple[torch.Tensor, float], two: tuple[torch.Tensor, float]) -> bool:
    (frequencies, scale), (other_frequencies, other_scale) = one, two
    return (
        frequencies.shape == other_frequencies.shape
        and torch.allclose(frequencies, other_frequencies, rtol=1e-5, atol=0)
        and same(scale, other_scale)
    )
