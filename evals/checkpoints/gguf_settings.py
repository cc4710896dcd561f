"""Settings in a GGUF header that change what a model computes, by what they mean.

Each is read three times: from the header, as llama.cpp runs the file; from the baseline's
configuration; and from the configuration that transformers makes of the header. Where the last
differs from the first, the model that would be scored is not the one in the file.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.gguf_header import Header
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
from compression_gates.evals.data.items import whole_text
from compression_gates.evals.models.configurations import load_config

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_TOLERANCE = 1e-4
"""Headers hold float32."""
_SPECIAL = 16
"""Tokens that a tokenizer may add to a text, generously."""
_GATING = {1: "softmax", 2: "sigmoid"}
_CAPS = {"gemma2": {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}}
"""What llama.cpp caps logits by where a header does not say it."""


@dataclass(frozen=True)
class HeaderSetting:
    """A setting under its two names.

    Attributes:
        name: in sentences.
        held: what llama.cpp takes from a header, and
        meant: what a configuration says; None where there is none.
        silent: a side that does not give it says nothing, since it is built into the architecture.
        structural: compression is known to change it.
    """

    name: str
    held: Callable[[Header], object]
    meant: Callable[[PreTrainedConfig], object]
    silent: bool = False
    structural: bool = False

    def agree(self, one: object, other: object) -> bool:
        """Whether two values mean the same."""
        if self.silent and (one is None or other is None):
            return True
        return _alike(one, other)


def _alike(one: object, other: object) -> bool:
    if isinstance(one, RopeScaling):
        return one.agrees(other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(map(_alike, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_TOLERANCE)
    return one == other


def _first(*names: str) -> Callable[[PreTrainedConfig], object]:
    """The first of several attributes that a configuration has."""

    def meant(config: PreTrainedConfig) -> object:
        found = (getattr(config, name, None) for name in names)
        return next((value for value in found if value is not None), None)

    return meant


def _key(*names: str) -> Callable[[Header], object]:
    """The first of several keys that a header has."""

    def held(header: Header) -> object:
        return next((v for v in map(header.number, names) if v is not None), None)

    return held


def _cap(key: str) -> Callable[[Header], object]:
    def held(header: Header) -> object:
        usual = _CAPS.get(header.architecture, {}).get(key)
        return header.number(key) or usual

    return held


def _scale(key: str) -> Callable[[Header], object]:
    """A factor, which llama.cpp leaves out where it is 0 or not given."""
    return lambda header: header.number(key) or None


def _factor(key: str) -> Callable[[Header], object]:
    return lambda header: header.number(key) or 1.0


def _multiplier(*names: str) -> Callable[[PreTrainedConfig], object]:
    """The first of several factors that a configuration has; 1 where it has none."""
    return lambda config: _first(*names)(config) or 1.0


def _base(header: Header) -> object:
    return header.number("rope.freq_base") or 10000.0


def _theta(config: PreTrainedConfig) -> object:
    return rope_parameters(config).get("rope_theta")


def _heads(header: Header) -> object:
    """Heads, heads of keys, and dimensions of a head; None where layers differ."""
    heads = header.get("attention.head_count")
    keys = header.get("attention.head_count_kv")
    width = header.get("attention.key_length")
    given = [count for count in (heads, keys, width) if count is not None]
    if heads is None or not all(isinstance(count, int) for count in given):
        return None
    size = header.number("embedding_length") or 0
    return heads, keys or heads, width or int(size // max(heads, 1))


def _config_heads(config: PreTrainedConfig) -> object:
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
    """Without those that predict further tokens."""
    count = header.number("block_count")
    return None if count is None else count - (header.number("nextn_predict_layers") or 0)


def _rotated(header: Header) -> object:
    heads = _heads(header)
    return header.number("rope.dimension_count") or (heads[2] if heads else None)


def _window(config: PreTrainedConfig) -> int | None:
    if not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None) or None


def _causal(config: PreTrainedConfig) -> bool:
    return not getattr(config, "use_bidirectional_attention", False)


SETTINGS = (
    HeaderSetting(
        "epsilon of the normalization",
        _key("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"),
        _first("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"),
    ),
    HeaderSetting("base of the rotary embedding", _base, _theta),
    HeaderSetting("rope scaling", scaling_of_header, scaling_of_config),
    HeaderSetting("attention factor of the rotary embedding", attention_factor_of_header,
            attention_factor_of_config, silent=True),
    HeaderSetting("number of rotated dimensions", _rotated, rotated_dimensions),
    HeaderSetting("cap of attention logits", _cap("attn_logit_softcapping"),
            _first("attn_logit_softcapping")),
    HeaderSetting("cap of final logits", _cap("final_logit_softcapping"),
            _first("final_logit_softcapping")),
    HeaderSetting("scale of logits", _factor("logit_scale"),
            _multiplier("logit_scale", "logits_scaling")),
    HeaderSetting("scale of attention", _factor("attention.scale"),
                  _multiplier("attention_multiplier")),
    HeaderSetting("scale of embeddings", _factor("embedding_scale"),
                  _multiplier("embedding_multiplier")),
    HeaderSetting("scale of residuals", _factor("residual_scale"),
                  _multiplier("residual_multiplier")),
    HeaderSetting("clamp of queries, keys and values", _scale("attention.clamp_kqv"),
            _first("clip_qkv")),
    HeaderSetting("causal attention", lambda h: h.get("attention.causal") is not False, _causal),
    HeaderSetting("number of experts for a token", _scale("expert_used_count"),
            _first("num_experts_per_tok", "moe_topk")),
    HeaderSetting("normalization of expert weights", lambda h: h.get("expert_weights_norm"),
            _first("norm_topk_prob"), silent=True),
    HeaderSetting("scale of expert weights", _scale("expert_weights_scale"),
            _first("routed_scaling_factor"), silent=True),
    HeaderSetting("function of the router", lambda h: _GATING.get(h.get("expert_gating_func")),
            _first("scoring_func"), silent=True),
    HeaderSetting("attention heads, heads of keys and head size", _heads, _config_heads,
            silent=True, structural=True),
    HeaderSetting("number of experts", _scale("expert_count"),
            _first("num_local_experts", "num_experts", "n_routed_experts"), structural=True),
    HeaderSetting("number of layers", _layers, _first("num_hidden_layers"),
            structural=True),
    HeaderSetting("hidden size", _key("embedding_length"), _first("hidden_size"), structural=True),
)  # fmt: skip
"""What is compared by value. The context and the sliding window are judged by the data besides."""


def compare(sides: "Sides", header: Header) -> CheckpointComparison:
    """Holds the settings of a header beside the baseline's, and beside those that are loaded."""
    baseline = load_config(sides.baseline, sides.trust_remote_code).get_text_config()
    loaded = load_config(sides.candidate, sides.trust_remote_code).get_text_config()
    findings = [
        *_lost(header, loaded),
        *_differing(header, baseline),
        *_context(sides, header, baseline),
        *_windows(sides, header, baseline, loaded),
    ]
    return CheckpointComparison(tuple(findings), ("GGUF header",))


def _lost(header: Header, loaded: PreTrainedConfig) -> Iterator[Finding]:
    """What is in the file and not in the model that transformers makes of it."""
    for setting in SETTINGS:
        held, made = setting.held(header), setting.meant(loaded)
        if _is_unused(setting, held, loaded) or setting.agree(held, made):
            continue
        yield Finding(
            "GGUF loading",
            f"transformers does not load the {setting.name} of {header.name} "
            f"({_shown(held)}) and takes {_shown(made)}, so another model would be judged than the "
            "file holds; convert it to safetensors, or judge it with llama.cpp",
        )


def _is_unused(setting: HeaderSetting, held: object, config: PreTrainedConfig) -> bool:
    """Whether a model has no use for a setting: rotary ones without rotary embedding, and the size
    of the heads where only its parts can be told."""
    rotary = ("base of the rotary embedding", "rope scaling", "number of rotated dimensions",
              "attention factor of the rotary embedding")  # fmt: skip
    return setting.name in rotary and not rope_parameters(config)


def _differing(header: Header, baseline: PreTrainedConfig) -> Iterator[Finding]:
    """What llama.cpp would compute otherwise than the baseline."""
    for setting in SETTINGS:
        held, meant = setting.held(header), setting.meant(baseline)
        if _is_unused(setting, held, baseline) or setting.agree(held, meant):
            continue
        kind = "GGUF note" if setting.structural and not _is_recut(held, meant) else "GGUF header"
        yield Finding(
            kind,
            f"the {setting.name} is {_shown(meant)} for the baseline and {_shown(held)} in the "
            f"header of {header.name}",
        )


def _is_recut(held: object, meant: object) -> bool:
    """Whether the same rows of queries are cut into other heads, which is no compression."""
    if not isinstance(held, tuple) or not isinstance(meant, tuple):
        return False
    return held[0] * held[2] == meant[0] * meant[2]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "on", False: "off"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _context(sides: "Sides", header: Header, baseline: PreTrainedConfig) -> Iterator[Finding]:
    held, meant = header.number("context_length"), sides.baseline.context
    if held is not None and meant is not None and held < meant:
        told = f"the header of {header.name} takes {held:g} tokens at most, the baseline {meant}"
        yield Finding("context length", told)


def _windows(
    sides: "Sides", header: Header, baseline: PreTrainedConfig, loaded: PreTrainedConfig
) -> Iterator[Finding]:
    """A sliding window changes nothing of texts that are shorter."""
    held = header.number("attention.sliding_window") or None
    meant, made = _window(baseline), _window(loaded)
    if held != made and not _fit(sides, min(w for w in (held, made) if w)):
        yield Finding(
            "GGUF loading",
            f"transformers does not load the sliding window of {header.name} "
            f"({_shown(held)}) and takes {_shown(made)}, and the data are longer; give shorter "
            "texts, or convert the file to safetensors",
        )
    if held != meant:
        hidden = ", which these texts cannot show" if _fit(
            sides, min(w for w in (held, meant) if w)
        ) else ""  # fmt: skip
        yield Finding(
            "GGUF note",
            f"the sliding window is {_shown(meant)} for the baseline and {_shown(held)} in the "
            f"header of {header.name}{hidden}",
        )


def _fit(sides: "Sides", window: float) -> bool:
    """Whether no text has more tokens than a window."""
    tokenizer = sides.tokenizers[0]
    texts = [whole_text(item) for data in sides.data for item in data.items]
    # A token is a byte at least, so that most texts need not be cut.
    long = [text for text in texts if len(text.encode()) + _SPECIAL > window]
    return (
        all(len(ids) <= window for ids in tokenizer(long, verbose=False).input_ids)
        if long
        else True
    )
