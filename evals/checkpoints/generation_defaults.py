"""Comparison of the settings that ``generate`` uses by default for two checkpoints.

Scoring overrides most of these settings, so a difference may not affect any score.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from transformers import GenerationConfig

from compression_gates.evals.checkpoints.chat import assistant_turns
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ, Checkpoint
from compression_gates.evals.checkpoints.encoding import both_sides
from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.setting_kinds import Difference, same, short_name, shown
from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.models.configurations import (
    end_tokens,
    load_generation_config,
)

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

FILE = "generation_config.json"
MILDER = "milder generation setting"
SHOWN = 6
"""Settings that a message names; further ones are only counted."""
_EXCLUDED = (
    "transformers_version", "eos_token_id", "decoder_start_token_id", "max_length",
    "max_new_tokens", "pad_token_id",
)  # fmt: skip
"""Bookkeeping, and settings that have a comparison of their own."""
_SWITCHES = {
    **dict.fromkeys(
        ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff",
         "eta_cutoff"),
        "do_sample",
    ),
    **dict.fromkeys(
        ("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"), "num_beams"
    ),
}  # fmt: skip
"""Settings that have an effect only if another setting is enabled."""
_WITHOUT_EFFECT = (
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "bos_token_id",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "renormalize_logits", "remove_invalid_values", "compile_config",
    "disable_compile", "low_memory", "prefill_chunk_size", "continuous_batching_config",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "max_matching_ngram_size", "assistant_lookbehind",
    "target_lookbehind",
)  # fmt: skip
"""Settings that change how an answer is computed or returned, but not the answer."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Compare what ``generate`` does by default; for an adapter, the settings of its base.

    Without a ``generation_config.json``, transformers uses the generation settings of
    ``config.json``, and so does this comparison.

    Raises:
        EvalError: transformers rejects the settings of a side.
    """
    one, two = ((side.base or side) for side in (sides.baseline, sides.candidate))
    if sides.baseline.kind not in (CAUSAL, SEQ2SEQ):
        return CheckpointComparison()
    if one.file or two.file:
        return CheckpointComparison(not_compared={FILE: "a GGUF file has a header instead"})
    if error := _read_error(one):
        return CheckpointComparison(not_compared={"generation": error})
    if error := _read_error(two):
        return CheckpointComparison((Finding(f"unreadable {FILE}", error),), ("generation",))
    before, after = load_generation_config(one), load_generation_config(two)
    findings = [
        *_end_tokens(before, after, sides),
        *_length_limits(before, after, sides),
        *_padding(before, after, sides),
        *_settings(_effective(before), _effective(after)),
        *_first_token(before, after, sides.baseline.kind),
    ]
    return CheckpointComparison(tuple(findings), (_compared(before),))


def _read_error(side: Checkpoint) -> str:
    """Return why the file cannot be read; empty if it can, or if there is none."""
    file = side.path / FILE
    try:
        if file.exists():
            json_object(file)
    except EvalError as error:
        return str(error)
    return ""


def _effective(config: GenerationConfig) -> dict[str, object]:
    """Return the settings with the defaults that ``generate`` uses for unset ones."""
    settings = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
    for name, value in GenerationConfig._get_default_generation_params().items():
        if settings.get(name) is None:
            settings[name] = value
    if settings["cache_implementation"] == "hybrid":  # generate treats this value as unset
        settings["cache_implementation"] = None
    return {name: value for name, value in settings.items() if name not in _EXCLUDED}


def _end_tokens(one: GenerationConfig, two: GenerationConfig, sides: "Sides") -> list[Finding]:
    before, after = end_tokens(one), end_tokens(two)
    if before == after:
        return []
    added = set(after) - set(before)
    special = _special_tokens(sides)
    harmless = set(before) <= set(after) and added <= special and not _in_answers(added, sides)
    text = f"generation ends at {both_sides(before, after)}"
    return [Finding("further end tokens" if harmless else "end of generation", text)]


def _special_tokens(sides: "Sides") -> set[int]:
    """Return the special tokens of the baseline."""
    tokenizer = sides.tokenizers[0]
    flagged = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return {*tokenizer.all_special_ids, *flagged}


def _padding(one: GenerationConfig, two: GenerationConfig, sides: "Sides") -> list[Finding]:
    """Compare the token that ``generate`` writes after a row of a batch that has ended."""
    before, after = one.pad_token_id, two.pad_token_id
    if before == after:
        return []
    text = f"plain generate pads with {both_sides(shown(before), shown(after))}"
    if after is None:  # generate pads with an end token instead
        return [Finding(MILDER, text)]
    rows = sides.candidate_config.get_text_config().vocab_size
    if type(after) is not int or not 0 <= after < rows:
        return [Finding("padding token", f"{text}, whose vocabulary has {rows} entries")]
    special = _special_tokens(sides)
    # Without a padding token, the baseline pads with an end token.
    usual = {before} if before is not None else set(end_tokens(one))
    known = set(sides.tokenizers[0].get_vocab().values())
    if usual & special and after in known - special:
        text += ", an ordinary token, which is visible after an answer"
        return [Finding("padding token", text)]
    return [Finding(MILDER, text)]


def _in_answers(tokens: set[int], sides: "Sides") -> bool:
    """Return whether any of the tokens occurs in an answer before its end.

    The answers are those of the data and the assistant's turns that the chat template renders,
    which include tool calls.
    """
    tokenizer = sides.tokenizers[0]
    ends = [*tokens, *tokenizer.all_special_ids]
    answers = [
        tokenizer.encode(text, add_special_tokens=False) for text in assistant_turns(tokenizer)
    ]
    names = tokenizer.convert_ids_to_tokens(sorted(tokens))
    expected = (getattr(item, "expected", "") for data in sides.data for item in data.items)
    return any(name in text for text in expected for name in names) or any(
        token in tokens and tokenizer.decode([t for t in ids[place:] if t not in ends]).strip()
        for ids in answers
        for place, token in enumerate(ids)
    )


def _length_limits(one: GenerationConfig, two: GenerationConfig, sides: "Sides") -> list[Finding]:
    limits = _length_limit(one), _length_limit(two)
    if limits[0] == limits[1]:
        return []
    (before, before_is_new), (after, after_is_new) = limits
    needed: float = before
    if before_is_new and not after_is_new:
        # No sequence is longer than the context.
        needed = min(sides.lengths.text + before, sides.baseline.context or math.inf)
    elif after_is_new and not before_is_new:
        needed = before - sides.lengths.text
    shown = (
        f"max_new_tokens = {tokens}" if is_new else f"max_length = {tokens} (prompt included)"
        for tokens, is_new in limits
    )
    text = f"plain generate stops at {both_sides(*shown)}"
    return [Finding("length of generation" if after < needed else MILDER, text)]


def _length_limit(config: GenerationConfig) -> tuple[int, bool]:
    """Return the number of tokens at which ``generate`` stops, and whether it excludes the prompt.

    Raises:
        EvalError: a limit is not an integer.
    """
    new, whole = config.max_new_tokens, config.max_length
    for name, limit in (("max_new_tokens", new), ("max_length", whole)):
        if limit is not None and type(limit) is not int:
            raise EvalError(f"{FILE}: {name} = {limit!r:.80} is not a number of tokens")
    if new is None and whole is not None:
        return whole, False
    default = GenerationConfig._get_default_generation_params()["max_length"]
    return default if new is None else new, True


def _settings(one: Mapping[str, object], two: Mapping[str, object]) -> list[Finding]:
    """Compare all other settings and report them by their effect on the candidate's answers."""
    defaults = _effective(GenerationConfig())
    breaking, milder, unknown = [], [], []
    for name in sorted(one.keys() | two.keys()):
        before, after = one.get(name), two.get(name)
        if same(before, after):
            continue
        if name not in defaults:
            unknown.append(short_name(name))
            continue
        harmless = (
            name in _WITHOUT_EFFECT
            or not _is_enabled(name, two, defaults)
            or (name == "do_sample" and not after)  # greedy instead of sampled
        )
        (milder if harmless else breaking).append(str(Difference(name, before, after)))
    listings = {
        "generation setting": ("plain generate differs in ", breaking, ", which scoring ignores"),
        MILDER: ("plain generate differs in ", milder, ""),
        "unknown setting": (
            f"{FILE} differs in settings that transformers does not know: ", unknown, "",
        ),
    }  # fmt: skip
    return [
        Finding(kind, f"{start}{listed(names, shown=SHOWN)}{end}")
        for kind, (start, names, end) in listings.items()
        if names
    ]


def _is_enabled(name: str, settings: Mapping[str, object], defaults: Mapping[str, object]) -> bool:
    """Return whether the setting that another one depends on is enabled."""
    switch = _SWITCHES.get(name)
    return switch is None or not same(settings[switch], defaults[switch])


def _first_token(one: GenerationConfig, two: GenerationConfig, kind: str) -> list[Finding]:
    """Compare the first token of the decoder of an encoder-decoder."""
    before, after = (
        config.bos_token_id
        if config.decoder_start_token_id is None
        else config.decoder_start_token_id
        for config in (one, two)
    )
    if kind != SEQ2SEQ or before == after:
        return []
    text = f"generation begins with {both_sides(shown(before), shown(after))}"
    return [Finding("first token of the decoder", text)]


def _compared(baseline: GenerationConfig) -> str:
    """Describe the comparison, and the baseline's settings that scoring ignores."""
    settings, defaults = _effective(baseline), _effective(GenerationConfig())
    names = [
        name
        for name in sorted(settings)
        if name in defaults
        and name not in _WITHOUT_EFFECT
        and not name.endswith("token_id")
        and not same(settings[name], defaults[name])
    ]
    ignored = f" and without {listed(names, shown=SHOWN)} of {FILE}" if names else ""
    return f"generation (scored greedily, to the lengths of the data{ignored})"
