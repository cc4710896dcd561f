"""Comparison of the settings in a GGUF header that change what a model computes.

Each setting is read from the header, as llama.cpp uses it, from the baseline's configuration, and
from the configuration that transformers derives from the header. If the last one differs from the
header, the model that would be scored is not the one in the file.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.gguf_header import REMEDY, Header
from compression_gates.evals.checkpoints.gguf_rope import (
    RopeScaling,
    attention_factor_of_config,
    attention_factor_of_header,
    head_dimensions,
    rope_parameters,
    rotated_dimensions,
    scaling_of_config,
    scaling_of_header,
)
from compression_gates.evals.checkpoints.tokens import shorter_context
from compression_gates.evals.data.items import whole_text

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_TOLERANCE = 1e-4
"""Relative tolerance, since headers store float32."""
_SPECIAL = 16
"""Upper bound on the special tokens that a tokenizer adds to a text."""
_GATING = {1: "softmax", 2: "sigmoid"}
_CAPS = {"gemma2": {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}}
"""Default caps of logits in llama.cpp, by architecture."""


@dataclass(frozen=True)
class HeaderSetting:
    """A setting that both a GGUF header and a configuration can have.

    Attributes:
        name: used in messages.
        in_header: reads the value that llama.cpp uses.
        in_config: reads the value of a configuration; None if there is none.
        optional: a missing value agrees with any value, as it is built into the architecture.
        structural: compression may change it.
        rotary: it applies only to models with rotary embedding.
    """

    name: str
    in_header: Callable[[Header], object]
    in_config: Callable[[PreTrainedConfig], object]
    optional: bool = False
    structural: bool = False
    rotary: bool = False

    def agree(self, one: object, other: object) -> bool:
        """Return whether two values have the same meaning."""
        if self.optional and (one is None or other is None):
            return True
        return _is_equal(one, other)


def _is_equal(one: object, other: object) -> bool:
    if isinstance(one, RopeScaling):
        return one.agrees(other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(map(_is_equal, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_TOLERANCE)
    return one == other


def _first(values: Iterable[object]) -> object:
    return next((value for value in values if value is not None), None)


def _attribute(*names: str) -> Callable[[PreTrainedConfig], object]:
    """Read the first of several attributes that a configuration has."""
    return lambda config: _first(getattr(config, name, None) for name in names)


def _multiplier(*names: str) -> Callable[[PreTrainedConfig], object]:
    """Read the first of several factors that a configuration has; by default 1."""
    return lambda config: _attribute(*names)(config) or 1.0


def _key(*names: str) -> Callable[[Header], object]:
    """Read the first of several keys that a header has."""
    return lambda header: _first(map(header.number, names))


def _nonzero(key: str, default: float | None = None) -> Callable[[Header], object]:
    """Read a key of which llama.cpp treats 0 as not set."""
    return lambda header: header.number(key) or default


def _cap(key: str) -> Callable[[Header], object]:
    return lambda header: header.number(key) or _CAPS.get(header.architecture, {}).get(key)


def _theta(config: PreTrainedConfig) -> object:
    return rope_parameters(config).get("rope_theta")


def _heads(header: Header) -> tuple[int, int, int] | None:
    """Return heads, key heads and the size of a head; None if they depend on the layer."""
    heads = header.get("attention.head_count")
    keys = header.get("attention.head_count_kv")
    width = header.get("attention.key_length")
    given = [count for count in (heads, keys, width) if count is not None]
    if heads is None or not all(isinstance(count, int) for count in given):
        return None
    size = header.number("embedding_length") or 0
    return heads, keys or heads, width or int(size // max(heads, 1))


def _config_heads(config: PreTrainedConfig) -> tuple[int, int, int] | None:
    heads = getattr(config, "num_attention_heads", None)
    if heads is None or not getattr(config, "hidden_size", None):
        return None
    keys = getattr(config, "num_key_value_heads", None)
    if getattr(config, "new_decoder_architecture", False):
        keys = config.num_kv_heads  # of Falcon
    elif keys is None and getattr(config, "multi_query", False):
        keys = 1
    return heads, keys or heads, head_dimensions(config)


def _layers(header: Header) -> object:
    """Return the number of layers without those for multi-token prediction."""
    count = header.number("block_count")
    return None if count is None else count - (header.number("nextn_predict_layers") or 0)


def _rotated(header: Header) -> object:
    heads = _heads(header)
    return header.number("rope.dimension_count") or (heads[2] if heads else None)


def _window(config: PreTrainedConfig) -> int | None:
    if not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None) or None


def _is_causal(config: PreTrainedConfig) -> bool:
    return not getattr(config, "use_bidirectional_attention", False)


SETTINGS = (
    HeaderSetting(
        "epsilon of the normalization",
        _key("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"),
        _attribute("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps",
                   "norm_epsilon"),
    ),
    HeaderSetting("base of the rotary embedding", _nonzero("rope.freq_base", 10000.0), _theta,
                  rotary=True),
    HeaderSetting("rope scaling", scaling_of_header, scaling_of_config, rotary=True),
    HeaderSetting("attention factor of the rotary embedding", attention_factor_of_header,
                  attention_factor_of_config, optional=True, rotary=True),
    HeaderSetting("number of rotated dimensions", _rotated, rotated_dimensions, rotary=True),
    HeaderSetting("cap of attention logits", _cap("attn_logit_softcapping"),
                  _attribute("attn_logit_softcapping")),
    HeaderSetting("cap of final logits", _cap("final_logit_softcapping"),
                  _attribute("final_logit_softcapping")),
    HeaderSetting("scale of logits", _nonzero("logit_scale", 1.0),
                  _multiplier("logit_scale", "logits_scaling")),
    HeaderSetting("scale of attention", _nonzero("attention.scale", 1.0),
                  _multiplier("attention_multiplier")),
    HeaderSetting("scale of embeddings", _nonzero("embedding_scale", 1.0),
                  _multiplier("embedding_multiplier")),
    HeaderSetting("scale of residuals", _nonzero("residual_scale", 1.0),
                  _multiplier("residual_multiplier")),
    HeaderSetting("clamp of queries, keys and values", _nonzero("attention.clamp_kqv"),
                  _attribute("clip_qkv")),
    HeaderSetting("causal attention", lambda header: header.get("attention.causal") is not False,
                  _is_causal),
    HeaderSetting("number of experts per token", _nonzero("expert_used_count"),
                  _attribute("num_experts_per_tok", "moe_topk")),
    HeaderSetting("normalization of expert weights",
                  lambda header: header.get("expert_weights_norm"), _attribute("norm_topk_prob"),
                  optional=True),
    HeaderSetting("scale of expert weights", _nonzero("expert_weights_scale"),
                  _attribute("routed_scaling_factor"), optional=True),
    HeaderSetting("function of the router",
                  lambda header: _GATING.get(header.get("expert_gating_func")),
                  _attribute("scoring_func"), optional=True),
    HeaderSetting("number of attention heads, of key heads and size of a head", _heads,
                  _config_heads, optional=True, structural=True),
    HeaderSetting("number of experts", _nonzero("expert_count"),
                  _attribute("num_local_experts", "num_experts", "n_routed_experts"),
                  structural=True),
    HeaderSetting("number of layers", _layers, _attribute("num_hidden_layers"), structural=True),
    HeaderSetting("hidden size", _key("embedding_length"), _attribute("hidden_size"),
                  structural=True),
)  # fmt: skip
"""Settings that are compared by value. For context and sliding window, the data also matter."""


def compare(sides: "Sides", header: Header) -> CheckpointComparison:
    """Compare the settings of a header with the baseline's and with those that are loaded."""
    baseline = sides.baseline_config.get_text_config()
    loaded = sides.candidate_config.get_text_config()
    context = shorter_context(
        sides.baseline.context, header.number("context_length"), f"the header of {header.name}"
    )
    findings = [
        *_not_loaded(header, loaded),
        *_different(header, baseline),
        *([Finding("context length", context)] if context else []),
        *_windows(sides, header, baseline, loaded),
    ]
    return CheckpointComparison(tuple(findings), ("GGUF header",))


def _disagreements(
    header: Header, config: PreTrainedConfig
) -> Iterator[tuple[HeaderSetting, object, object]]:
    """Yield each setting on which a header and a configuration disagree, and both values."""
    for setting in SETTINGS:
        in_header, in_config = setting.in_header(header), setting.in_config(config)
        if setting.rotary and not rope_parameters(config):
            continue
        if not setting.agree(in_header, in_config):
            yield setting, in_header, in_config


def _not_loaded(header: Header, loaded: PreTrainedConfig) -> Iterator[Finding]:
    """Find settings of the file that the model loaded by transformers does not have."""
    for setting, in_header, in_config in _disagreements(header, loaded):
        text = (
            f"transformers does not load the {setting.name} of {header.name} "
            f"({_shown(in_header)}) and uses {_shown(in_config)}, {REMEDY}"
        )
        yield Finding("GGUF loading", text)


def _different(header: Header, baseline: PreTrainedConfig) -> Iterator[Finding]:
    """Find settings with which llama.cpp computes a different function from the baseline."""
    for setting, in_header, in_config in _disagreements(header, baseline):
        may_differ = setting.structural and not _same_query_rows(in_header, in_config)
        text = (
            f"the {setting.name} is {_shown(in_config)} for the baseline and {_shown(in_header)} "
            f"in the header of {header.name}"
        )
        yield Finding("GGUF note" if may_differ else "GGUF header", text)


def _same_query_rows(one: object, two: object) -> bool:
    """Return whether the same query rows are split into different heads.

    No compression does this.
    """
    if not isinstance(one, tuple) or not isinstance(two, tuple):
        return False
    return one[0] * one[2] == two[0] * two[2]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "on", False: "off"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _windows(
    sides: "Sides", header: Header, baseline: PreTrainedConfig, loaded: PreTrainedConfig
) -> Iterator[Finding]:
    """Compare sliding windows, which have no effect on shorter texts."""
    window = header.number("attention.sliding_window") or None
    expected, used = _window(baseline), _window(loaded)
    if window != used and not _fits(sides, window, used):
        text = (
            f"transformers does not load the sliding window of {header.name} ({_shown(window)}) "
            f"and uses {_shown(used)}, and the data are longer; use shorter texts, or convert the "
            "file to safetensors"
        )
        yield Finding("GGUF loading", text)
    if window != expected:
        text = (
            f"the sliding window is {_shown(expected)} for the baseline and {_shown(window)} in "
            f"the header of {header.name}"
        )
        if _fits(sides, window, expected):
            text += "; the data are shorter, so no score can show it"
        yield Finding("GGUF note", text)


def _fits(sides: "Sides", *windows: float | None) -> bool:
    """Return whether no text has more tokens than the smallest of several windows."""
    window = min(filter(None, windows))
    tokenizer = sides.tokenizers[0]
    texts = [whole_text(item) for data in sides.data for item in data.items]
    # A token is at least one byte, so most texts need not be encoded.
    long = [text for text in texts if len(text.encode()) + _SPECIAL > window]
    return not long or max(map(len, tokenizer(long, verbose=False).input_ids)) <= window
