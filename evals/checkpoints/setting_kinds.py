"""Kinds of settings in a ``config.json``, and whether two values of a setting are equivalent."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from transformers.activations import ACT2FN

from compression_gates.evals.checkpoints.names import POSITIONS
from compression_gates.evals.foreign_text import on_one_line

OTHER = "setting"
"""The kind of a declared setting that matches none of the other patterns."""
BOOKKEEPING, TRAINING, SIZE, TOKEN, CONTEXT, HEADS, ROPE = (
    "bookkeeping", "training setting", "size", "special token id", "context", "heads", "rope",
)  # fmt: skip
"""Kinds of settings that are compared in special ways, or not at all."""
NORMALIZATION, ACTIVATION, SCALING, PATTERN, ROUTING, TYING = (
    "normalization", "activation", "scaling", "attention pattern", "expert routing",
    "tied output layer",
)  # fmt: skip
FORWARD = (NORMALIZATION, ACTIVATION, SCALING, PATTERN, ROUTING, OTHER)
"""Kinds of settings that determine the forward pass and that compression never changes."""

_PATTERNS = {
    BOOKKEEPING: (
        r"_.*|name_or_path|architectures|transformers_version|(torch_)?dtype|use_cache|model_type"
        r"|quantization_config|compression_config|auto_map|output_(attentions|hidden_states)"
        r"|output_router_logits|return_dict|id2label|label2id|num_labels|finetuning_task"
        r"|task_specific_params|torchscript|gradient_checkpointing|pretraining_tp"
        r"|chunk_size(_feed_forward)?|keys_to_ignore_at_inference|tokenizer_class|use_.*kernels?"
        r"|unsloth.*|.*flash.*|attn_implementation|reorder_and_upcast_attn|use_bfloat16"
        r"|base_model_.*_plan|num_logits_to_keep|chunk_size_lm_head|mamba_chunk_size|num_beams|max_length"
        r"|max_new_tokens|min_length|.*no_repeat_ngram_size|ep_size"
    ),
    TRAINING: (
        r".*dropout.*|.*_pdrop|.*_drop|initializer.*|init_.*|.*_init|.*_loss(_.*)?|.*aux_.*"
        r"|.*jitter.*|.*layerdrop|mask_(time|feature)_.*|label_smoothing|summary_.*"
        r"|rescale_prenorm_residual|time_step_(min|max|floor)|embd_pdrop"
    ),
    TOKEN: r".*_token_(id|index|ids)|(bos|eos|pad|unk|mask)_index|lang_id",
    TYING: r"tie_word_embeddings",
    CONTEXT: "|".join(POSITIONS),
    ROPE: r"rope_parameters|rope_scaling|rope_theta|partial_rotary_factor|rotary_(pct|emb_base)"
    r"|rope_local_base_freq|original_max_position_embeddings",
    HEADS: r"num_attention_heads|num_key_value_heads|head_dim",
    NORMALIZATION: r"(.*_)?eps(ilon)?",
    ACTIVATION: r".*act(ivation)?(_fn|_function)?",
    ROUTING: (
        r"num_experts_per_tok(en)?|experts_per_token|num_selected_experts|moe_top_?k|moe_k"
        r"|top_k_experts|topk_group|n_group|topk_method|scoring_func|norm_topk_prob"
        r"|routed_scaling_factor|router_.*|moe_layer_freq|decoder_sparse_step|mlp_only_layers"
        r"|mlp_layer_types|first_k_dense_replace|interleave_moe_layer_step"
    ),
    PATTERN: (
        r".*window.*|.*attention_chunk_size|layer_types|no_rope.*|local_attention"
        r"|global_attn_every_n_layers|attention_(types|layers)|attn_layer_.*|.*sliding.*|is_causal"
        r"|use_bidirectional_attention"
    ),
    SCALING: r".*soft_?cap.*|.*multiplier.*|logit_scale|logits_scal.*|.*scal(e|ar|ing).*|alpha",
    OTHER: r"relative_attention_max_distance|max_relative_positions|alibi_bias_max"
    r"|clip_qkv|clamp_len",
    SIZE: r".*bias|pruned_heads|per_layer_config|block_configs|layers_block_type"
    r"|num_hidden_layers|(num_)?(encoder|decoder)_layers|num_(nextn_predict|mtp)_layers"
    r"|.*(intermediate_size|ffn_dim|vocab_size|proj_size).*|.*num_experts|num_local_experts"
    r"|n_(routed|shared)_experts|expand|mamba_expand|mamba_d_head",
}  # fmt: skip
ABSENT: Mapping[str, object] = {
    "partial_rotary_factor": 1.0,
    **dict.fromkeys(("logit_scale", "logits_scaling", "embedding_multiplier"), 1.0),
    **dict.fromkeys(("residual_multiplier", "attention_multiplier"), 1.0),
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), None),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), None),
    "is_causal": True,
}
"""Values that are equivalent to the absence of a setting in an architecture."""
_IN_EVALUATION = (
    ("phimoe", "router_jitter_noise"),
    ("zamba2", "time_step_min"),
    ("nemotron_h", "time_step_min"),
)
"""Architectures and settings of training that also have an effect in evaluation.

PhiMoE masks experts by a margin of twice the noise; the others clamp time steps from below.
"""
READ_BY_ALL = ("is_causal",)
"""Settings that transformers reads even if the class of a configuration does not declare them."""


@dataclass(frozen=True)
class Difference:
    """A setting whose values for a baseline and a candidate are not equivalent."""

    name: str
    baseline: object
    candidate: object

    def __str__(self) -> str:
        before, after = shown(self.baseline), shown(self.candidate)
        return f"{short_name(self.name)} ({before} for the baseline, {after} for the candidate)"


def short_name(name: str) -> str:
    """Return an untrusted name on one line of at most 60 characters."""
    return on_one_line(name)[:60]


def shown(value: object) -> str:
    """Return a value on one line, shortened in the middle."""
    line = ascii(value)
    return line if len(line) <= 80 else f"{line[:50]} ... {line[-20:]}"


def kind_of(name: str, *values: object) -> str:
    """Return the kind of a setting by its name, or if no pattern matches, by its ``values``.

    Integers may be sizes of the model, which structured pruning and distillation change.
    """
    return _kind_by_name(name) or (SIZE if _are_counts(values) else OTHER)


def is_assumed_size(name: str, *values: object) -> bool:
    """Return whether a setting counts as a size only because its values are integers."""
    return _kind_by_name(name) is None and _are_counts(values)


def _are_counts(values: tuple[object, ...]) -> bool:
    return all(type(value) is int for value in values if value is not None)


def acts_in_evaluation(model_type: object, name: str) -> bool:
    """Return whether a setting of training has an effect in evaluation in this architecture."""
    return (model_type, name) in _IN_EVALUATION


@cache
def _kind_by_name(name: str) -> str | None:
    return next((kind for kind, pattern in _PATTERNS.items() if re.fullmatch(pattern, name)), None)


def same(one: object, two: object, kind: str = "") -> bool:
    """Return whether two values of a setting are equivalent."""
    if repr(one) == repr(two):
        return True  # includes NaN
    if isinstance(one, bool) or isinstance(two, bool):
        if one is None or two is None:
            return not one and not two  # unset means off
        return one == two  # includes 0 and 1
    if isinstance(one, int | float) and isinstance(two, int | float):
        # Numbers that were stored as float32 differ in later decimals.
        return math.isclose(one, two, rel_tol=1e-6)
    if kind == ACTIVATION and isinstance(one, str) and isinstance(two, str):
        return one == two or _is_same_function(one, two)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return one == two


@cache
def _is_same_function(one: str, two: str) -> bool:
    """Return whether two activations of transformers have the same values from -20 to 20."""
    points = torch.linspace(-20, 20, 2001)
    try:
        with torch.inference_mode():
            return torch.allclose(ACT2FN[one](points), ACT2FN[two](points), rtol=1e-4, atol=1e-5)
    except (KeyError, TypeError, RuntimeError):
        return False
