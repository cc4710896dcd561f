"""How plain ``generate`` of two checkpoints goes on and ends, whatever a scorer sets itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import GenerationConfig

from compression_gates.evals.checkpoints.chat import assistant_turns
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, SEQ2SEQ, Checkpoint
from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.settings import Difference, same, short_name, shown
from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.models.configurations import (
    end_tokens,
    load_config,
    load_generation_config,
)

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

FILE = "generation_config.json"
MILDER = "milder generation setting"
SHOWN = 6
"""Settings that a line names; of more, their number."""
_UNNAMED = (
    "transformers_version", "eos_token_id", "decoder_start_token_id", "max_length",
    "max_new_tokens", "pad_token_id",
)  # fmt: skip
"""Bookkeeping, and what is compared by itself."""
_ACTS_WITH = {
    **dict.fromkeys(
        ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff",
         "eta_cutoff"),
        "do_sample",
    ),
    **dict.fromkeys(
        ("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"), "num_beams"
    ),
}  # fmt: skip
"""Settings that act only beside another."""
_HARMLESS = (
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "bos_token_id",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "renormalize_logits", "remove_invalid_values", "compile_config",
    "disable_compile", "low_memory", "prefill_chunk_size", "continuous_batching_config",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "max_matching_ngram_size", "assistant_lookbehind",
    "target_lookbehind",
)  # fmt: skip
"""Settings that change how an answer is computed or returned, and not which one it is."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds what plain ``generate`` goes by side by side; of an adapter, that of its base.

    A ``generation_config.json`` that is not there counts as transformers takes it: as what
    ``config.json`` says of generation.

    Raises:
        EvalError: transformers does not take what a side says.
    """
    one, two = ((side.base or side) for side in (sides.baseline, sides.candidate))
    if sides.baseline.kind not in (CAUSAL, SEQ2SEQ):
        return CheckpointComparison()
    if one.file or two.file:
        return CheckpointComparison(not_compared={FILE: "a GGUF file has a header in its place"})
    broken = [side for side in (one, two) if _unreadable(side)]
    if one in broken:
        return CheckpointComparison(not_compared={"generation": _unreadable(one)})
    if broken:
        kind = f"unreadable {FILE}"
        return CheckpointComparison((Finding(kind, _unreadable(two)),), ("generation",))
    plain = load_generation_config(one), load_generation_config(two)
    findings = [
        *_ends(*plain, sides),
        *_lengths(*plain, sides),
        *_padding(*plain, sides),
        *_settings(*map(_effective, plain)),
        *_first_token(*plain, sides.baseline.kind),
    ]
    return CheckpointComparison(tuple(findings), (_compared(plain[0]),))


def _unreadable(side: Checkpoint) -> str:
    """Why the file does not count; nothing where it does, or where there is none."""
    file = side.path / FILE
    try:
        if file.exists():
            json_object(file)
    except EvalError as error:
        return str(error)
    return ""


def _effective(asked: GenerationConfig) -> dict[str, object]:
    """Settings with the defaults that ``generate`` puts in place of what is not set."""
    found = {name: value for name, value in asked.to_dict().items() if not name.startswith("_")}
    for name, value in GenerationConfig._get_default_generation_params().items():
        if found.get(name) is None:
            found[name] = value
    if found["cache_implementation"] == "hybrid":  # as generate does, from older files
        found["cache_implementation"] = None
    return {name: value for name, value in found.items() if name not in _UNNAMED}


def _ends(one: GenerationConfig, two: GenerationConfig, sides: "Sides") -> list[Finding]:
    before, after = end_tokens(one), end_tokens(two)
    if before == after:
        return []
    more = set(after) - set(before)
    special = _special_tokens(sides)
    harmless = set(before) <= set(after) and more <= special and not _in_answers(more, sides)
    text = f"generation ends at {before} for the baseline, {after} for the candidate"
    return [Finding("further end tokens" if harmless else "end of generation", text)]


def _special_tokens(sides: "Sides") -> set[int]:
    """Those of the baseline's tokenizer."""
    tokenizer = sides.tokenizers[0]
    flagged = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return {*tokenizer.all_special_ids, *flagged}


def _padding(one: GenerationConfig, two: GenerationConfig, sides: "Sides") -> list[Finding]:
    """The token that ``generate`` writes behind a row of a batch that has ended early."""
    before, after = one.pad_token_id, two.pad_token_id
    if before == after:
        return []
    text = f"plain generate pads with {shown(before)} for the baseline, {shown(after)} for the "
    if after is None:  # generate takes an end token in its place
        return [Finding(MILDER, f"{text}candidate")]
    rows = load_config(sides.candidate, sides.trust_remote_code).get_text_config().vocab_size
    if type(after) is not int or not 0 <= after < rows:
        text += f"candidate, whose vocabulary has {rows} entries"
        return [Finding("padding token", text)]
    special = _special_tokens(sides)
    # Without a padding token of its own, the baseline pads with an end token.
    usual = {before} if before is not None else set(end_tokens(one))
    known = set(sides.tokenizers[0].get_vocab().values())
    if usual & special and after in known - special:
        text += "candidate, an ordinary token that is shown behind an answer"
        return [Finding("padding token", text)]
    return [Finding(MILDER, f"{text}candidate")]


def _in_answers(tokens: set[int], sides: "Sides") -> bool:
    """Whether an answer goes on behind any of the tokens: one of the data, or a turn of the
    assistant as the chat template writes it, such as a call of a tool."""
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


def _lengths(one: GenerationConfig, two: GenerationConfig, sides: "Sides") -> list[Finding]:
    before, after = _limit(one), _limit(two)
    if before == after:
        return []
    text = f"plain generate stops at {before} for the baseline, {after} for the candidate"
    longest = sides.lengths.text if before.is_new != after.is_new else 0
    shorter = after.tokens < before.tokens
    if before.is_new and not after.is_new:
        # Nothing is said beyond the context in any case.
        needed = min(longest + before.tokens, sides.baseline.context or math.inf)
        shorter = after.tokens < needed
    elif after.is_new and not before.is_new:
        shorter = after.tokens < before.tokens - longest
    return [Finding("length of generation" if shorter else MILDER, text)]


@dataclass(frozen=True)
class _Limit:
    """Where ``generate`` stops: after so many tokens, which are new ones or count the prompt."""

    tokens: int
    is_new: bool
    told: str

    def __str__(self) -> str:
        return self.told


def _limit(asked: GenerationConfig) -> _Limit:
    """Where ``generate`` stops.

    Raises:
        EvalError: a limit that is no number.
    """
    usual = GenerationConfig._get_default_generation_params()["max_length"]
    new, whole = asked.max_new_tokens, asked.max_length
    for name, limit in (("max_new_tokens", new), ("max_length", whole)):
        if limit is not None and type(limit) is not int:
            raise EvalError(f"{FILE}: {name} = {limit!r:.80} is no number of tokens")
    if new is not None:
        return _Limit(new, True, f"max_new_tokens = {new}")
    if whole is not None:
        return _Limit(whole, False, f"max_length = {whole}, prompt included,")
    return _Limit(usual, True, f"the usual {usual} new tokens")


def _settings(one: Mapping[str, object], two: Mapping[str, object]) -> list[Finding]:
    """Everything else, by whether it changes the candidate's answers."""
    usual = _effective(GenerationConfig())
    breaks, milder, unknown = [], [], []
    for name in sorted(one.keys() | two.keys()):
        before, after = one.get(name), two.get(name)
        if same(before, after):
            continue
        if name not in usual:
            unknown.append(short_name(name))
            continue
        harmless = name in _HARMLESS or not _is_on(name, two, usual)
        if name == "do_sample" and not after:
            harmless = True  # the most likely answer in place of a random one
        (milder if harmless else breaks).append(Difference(name, before, after))
    found = []
    for kind, differences in (
        ("generation setting", breaks),
        (MILDER, milder),
    ):
        if differences:
            names = listed([str(difference) for difference in differences], shown=SHOWN)
            end = ", which scoring leaves aside" if differences is breaks else ""
            found.append(Finding(kind, f"plain generate differs in {names}{end}"))
    if unknown:
        names = listed(unknown, shown=SHOWN)
        text = f"{FILE} differs in settings that transformers does not know: {names}"
        found.append(Finding("unknown setting", text))
    return found


def _is_on(name: str, asked: Mapping[str, object], usual: Mapping[str, object]) -> bool:
    """Whether what a setting acts beside is switched on."""
    switch = _ACTS_WITH.get(name)
    return switch is None or not same(asked[switch], usual[switch])


def _first_token(one: GenerationConfig, two: GenerationConfig, kind: str) -> list[Finding]:
    """The token that a decoder of its own begins with."""
    first = [
        asked.bos_token_id if asked.decoder_start_token_id is None else asked.decoder_start_token_id
        for asked in (one, two)
    ]
    if kind != SEQ2SEQ or first[0] == first[1]:
        return []
    before, after = map(shown, first)
    text = f"generation begins with {before} for the baseline, {after} for the candidate"
    return [Finding("first token of the decoder", text)]


def _compared(baseline: GenerationConfig) -> str:
    """What was held side by side, and what of it scoring sets itself."""
    asked, usual = _effective(baseline), _effective(GenerationConfig())
    names = [
        name
        for name in sorted(asked)
        if name in usual and name not in _HARMLESS and not same(asked[name], usual[name])
    ]
    names = [name for name in names if not name.endswith("token_id")]
    also = f" and without {listed(names, shown=SHOWN)} of {FILE}" if names else ""
    return f"generation (scored greedily, to the lengths of the data{also})"
