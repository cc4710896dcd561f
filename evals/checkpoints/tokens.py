"""Comparison of the tokens of two checkpoints: of the data, of fixed texts, and decoded to text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.encoding import (
    SHOWN,
    TokenizerPair,
    both_sides,
    decode,
    encode,
    result_or_reason,
    text_difference,
    token_difference,
)
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.stress import AROUND, TEXTS, is_reserved
from compression_gates.evals.data.items import DataSet, Prompt, input_text
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import snippet

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

SPECIAL = ("bos", "eos", "unk", "cls", "sep", "mask")
"""Special tokens that are compared here; padding is compared with the tokenizer's settings."""
MOST_ADDED = 20
"""Added tokens of the baseline that are put into stress texts."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Compare the special tokens, the tokens of texts and the context lengths."""
    context = _findings(
        "context length", shorter_context(sides.baseline.context, sides.candidate.context)
    )
    if sides.share_tokenizer:
        why = "the candidate has none and is judged with the baseline's"
        return CheckpointComparison(context, not_compared={"tokenizer": why})
    pair = sides.tokenizers
    texts = stress_texts(pair[0])
    findings = (
        *_findings("special token", *_special_tokens(pair)),
        *_findings("tokens", *(_data(pair, data) for data in sides.data)),
        *_findings("stress text", _stress(pair, texts), _two_texts(pair)),
        *_findings("decoded text", _decoded(pair, texts)),
        *context,
    )
    return CheckpointComparison(
        findings, ("special tokens", "tokens of the data", f"{len(texts)} stress texts")
    )


def stress_texts(baseline: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return fixed texts by name, including texts that contain the baseline's special tokens."""
    added = [token.content for token in baseline.added_tokens_decoder.values()]
    named = [str(token) for token in baseline.special_tokens_map.values()]
    used = [token for token in added if not is_reserved(token)]
    special = dict.fromkeys([*named, *used[:MOST_ADDED]])
    inside = {
        f"{token!r} in text": "|".join(form.replace("{}", token) for form in AROUND)
        for token in special
    }
    return {**TEXTS, **inside}


def _findings(kind: str, *texts: str) -> tuple[Finding, ...]:
    return tuple(Finding(kind, text) for text in texts if text)


def _special_tokens(pair: TokenizerPair) -> Iterator[str]:
    for name in SPECIAL:
        tokens = [
            (getattr(side, f"{name}_token", None), getattr(side, f"{name}_token_id", None))
            for side in pair
        ]
        if tokens[0] != tokens[1]:
            shown = ["none" if token is None else f"{token!r} ({index})" for token, index in tokens]
            yield f"the {name} token is {both_sides(*shown)}"


def _data(pair: TokenizerPair, data: DataSet) -> str:
    """Describe the first token of the data that differs."""
    if same_tokenizer(*pair):
        return ""
    texts = [input_text(item) for item in data.items]
    texts += [item.expected for item in data.items if isinstance(item, Prompt)]
    for text, *ids in zip(texts, *(encode(side, texts) for side in pair), strict=True):
        source = f"{snippet(text, SHOWN)} in {data.name}"
        if difference := token_difference(pair, tuple(ids), source):
            return f"the tokenizers differ: {difference}"
    return ""


def same_tokenizer(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase) -> bool:
    """Return whether two tokenizers are identical, so that no text needs to be encoded twice."""
    return (
        type(one) is type(two)
        and one.is_fast
        and one.split_special_tokens == two.split_special_tokens
        and one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    )


def _stress(pair: TokenizerPair, texts: dict[str, str]) -> str:
    ids = zip(*(encode(side, list(texts.values())) for side in pair), strict=True)
    differences = {
        name: token_difference(pair, both, snippet(text, SHOWN))
        for (name, text), both in zip(texts.items(), ids, strict=True)
    }
    return summarized(differences, "the tokenizers differ on")


def summarized(differences: dict[str, str], start: str) -> str:
    """List the names of all differences and describe the first; empty if there is none."""
    differences = {name: text for name, text in differences.items() if text}
    if not differences:
        return ""
    return f"{start} {listed(list(differences))}: {next(iter(differences.values()))}"


def _two_texts(pair: TokenizerPair) -> str:
    """Compare the encoding of two texts as one input, whose token types tell them apart."""
    before, after = (
        result_or_reason(lambda side=side: dict(side("one text", "and another", verbose=False)))
        for side in pair
    )
    if isinstance(before, str):
        return ""
    ids = before["input_ids"], after if isinstance(after, str) else after["input_ids"]
    if difference := token_difference(pair, ids, "two texts as one input"):
        return f"the tokenizers differ: {difference}"
    name = next((n for n in {**before, **after} if before.get(n) != after.get(n)), None)
    if name is None:
        return ""
    shown = [snippet(str(encoding.get(name, "nothing")), SHOWN) for encoding in (before, after)]
    return f"the tokenizers differ: {name} of two texts as one input is {both_sides(*shown)}"


def _decoded(pair: TokenizerPair, texts: dict[str, str]) -> str:
    encoded = zip(texts, encode(pair[0], list(texts.values())), strict=True)
    differences = {
        name: decoding_difference(pair, ids) for name, ids in encoded if isinstance(ids, list)
    }
    return summarized(differences, "the same tokens are decoded to different text on")


def decoding_difference(pair: TokenizerPair, ids: list[int]) -> str:
    """Describe how the text of the same tokens differs, with or without special tokens."""
    for skip in (False, True):
        before, after = (decode(side, ids, skip) for side in pair)
        if before != after:
            return text_difference(before, after)
    return ""


def shorter_context(
    baseline: int | None, candidate: float | None, side: str = "the candidate"
) -> str:
    """Return the message for a candidate that accepts fewer tokens than its baseline.

    Args:
        baseline: the context length in tokens, or None if it is unknown.
        candidate: that of the candidate.
        side: what has the candidate's length.
    """
    if baseline is None or candidate is None or candidate >= baseline:
        return ""
    return f"{side} accepts at most {candidate} tokens, the baseline {baseline}"
