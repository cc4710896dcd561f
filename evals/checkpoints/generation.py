"""How plain ``generate`` of two checkpoints goes on and ends, whatever a scorer sets itself."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from transformers import GenerationConfig, PreTrainedTokenizerBase

from evals.checkpoint import CAUSAL, SEQ2SEQ, Checkpoint, json_object
from evals.checkpoints.findings import CheckpointComparison, Finding
from evals.checkpoints.settings import Difference, same, short_name, shown
from evals.errors import EvalError, listed
from evals.scoring.loading import end_tokens, load_generation_config

if TYPE_CHECKING:
    from evals.checkpoints.compare import Sides

FILE = "generation_config.json"
MILDER = "milder generation setting"
SHOWN = 6
"""Settings that a line names; of more, their number."""
_UNNAMED = (
    "transformers_version", "eos_token_id", "decoder_start_token_id", "max_length",
    "max_new_tokens",
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
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "pad_token_id",
    "bos_token_id", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
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
        *_ends(*plain, sides.tokenizers[0]),
        *_lengths(*plain),
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


def _ends(
    one: GenerationConfig, two: GenerationConfig, tokenizer: PreTrainedTokenizerBase
) -> list[Finding]:
    before, after = end_tokens(one), end_tokens(two)
    if before == after:
        return []
    more = set(after) - set(before)
    special = {
        *tokenizer.all_special_ids,
        *(index for index, token in tokenizer.added_tokens_decoder.items() if token.special),
    }
    harmless = set(before) <= set(after) and more <= special
    text = f"generation ends at {before} for the baseline, {after} for the candidate"
    return [Finding("further end tokens" if harmless else "end of generation", text)]


def _lengths(one: GenerationConfig, two: GenerationConfig) -> list[Finding]:
    (before, told), (after, told_too) = _limit(one), _limit(two)
    if (before, told) == (after, told_too):
        return []
    text = f"plain generate stops at {told} for the baseline, {told_too} for the candidate"
    return [Finding("length of generation" if after < before else MILDER, text)]


def _limit(asked: GenerationConfig) -> tuple[tuple[float, bool], str]:
    """Tokens after which ``generate`` stops and whether all of them are new, and this in words.

    Raises:
        EvalError: a limit that is no number.
    """
    usual = GenerationConfig._get_default_generation_params()["max_length"]
    new, whole = asked.max_new_tokens, asked.max_length
    for name, limit in (("max_new_tokens", new), ("max_length", whole)):
        if limit is not None and type(limit) is not int:
            raise EvalError(f"{FILE}: {name} = {limit!r:.80} is no number of tokens")
    if new is not None:
        return (new, True), f"max_new_tokens = {new}"
    if whole is not None:
        return (whole, False), f"max_length = {whole}, prompt included,"
    return (usual, True), f"the usual {usual} new tokens"


def _settings(one: Mapping[str, object], two: Mapping[str, object]) -> list[Finding]:
    """Everything else, by whether it makes the candidate's answers others."""
    usual = _effective(GenerationConfig())
    breaks, milder, unknown = [], [], []
    for name in sorted(one.keys() | two.keys()):
        before, after = one.get(name), two.get(name)
        if same(before, after):
            continue
        if name not in usual:
            unknown.append(short_name(name))
            continue
        acts = name.startswith("forced_") or (
            not same(after, usual[name]) and _is_on(name, two, usual)
        )
        kind = breaks if acts and name not in _HARMLESS else milder
        kind.append(Difference(name, before, after))
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
