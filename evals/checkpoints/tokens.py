"""Tokens of two checkpoints by behaviour: of the data, of a fixed stress text, and back to text."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.encoding import (
    SHOWN,
    Ids,
    Pair,
    encode,
    first_difference,
    parting,
    reason,
)
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.stress import AROUND, TEXTS, is_reserved
from compression_gates.evals.data.items import DataSet, Prompt, input_text
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import snippet

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

SPECIAL = ("bos", "eos", "unk", "cls", "sep", "mask")
"""Tokens that mean something wherever they stand; padding is compared with the other settings."""
MOST_ADDED = 20
"""Added tokens of the baseline that are put into stress texts."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds special tokens, the tokens of texts and the context lengths of two checkpoints side by
    side."""
    context = _findings("context length", _context(sides.baseline, sides.candidate))
    if sides.share_tokenizer:
        why = "the candidate brings none and is judged with the baseline's"
        return CheckpointComparison(context, not_compared={"tokenizer": why})
    pair = sides.tokenizers
    texts = stress_texts(pair[0])
    findings = (
        *(Finding("special token", text) for text in _special(*pair)),
        *_findings("tokens", *(_data(pair, data) for data in sides.data)),
        *_findings("stress text", _stress(pair, texts), _two_texts(pair)),
        *_findings("decoded text", _decoded(pair, texts)),
        *context,
    )
    return CheckpointComparison(
        findings, ("special tokens", "tokens of the data", f"{len(texts)} stress texts")
    )


def stress_texts(baseline: PreTrainedTokenizerBase) -> dict[str, str]:
    """Texts to tokenize by name; among them the baseline's own special tokens inside of text."""
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


def _special(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase) -> Iterator[str]:
    for name in SPECIAL:
        told = [
            (getattr(side, f"{name}_token", None), getattr(side, f"{name}_token_id", None))
            for side in (one, two)
        ]
        if told[0] != told[1]:
            shown = ["none" if token is None else f"{token!r} ({index})" for token, index in told]
            yield (
                f"the {name} token is {shown[0]} for the baseline and {shown[1]} for the candidate"
            )


def _data(pair: Pair, data: DataSet) -> str:
    """The first token of the data that the two do not share."""
    if are_one(*pair):
        return ""
    texts = [input_text(item) for item in data.items]
    texts += [item.expected for item in data.items if isinstance(item, Prompt)]
    for text, *ids in zip(texts, *(encode(side, texts) for side in pair), strict=True):
        if told := parting(pair, tuple(ids), f"{snippet(text, SHOWN)} in {data.name}"):
            return f"the tokenizers differ: {told}"
    return ""


def are_one(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers are the same, so that no text needs to be tokenized with both."""
    return (
        type(one) is type(two)
        and one.is_fast
        and one.split_special_tokens == two.split_special_tokens
        and one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    )


def _stress(pair: Pair, texts: dict[str, str]) -> str:
    ids = zip(*(encode(side, list(texts.values())) for side in pair), strict=True)
    found = {
        name: parting(pair, both, snippet(texts[name], SHOWN))
        for name, both in zip(texts, ids, strict=True)
    }
    return first_of(found, "the tokenizers differ on")


def first_of(found: dict[str, str], start: str) -> str:
    """The names of all differences and the first of them in full; empty where there is none."""
    found = {name: text for name, text in found.items() if text}
    return f"{start} {listed(list(found))}: {next(iter(found.values()))}" if found else ""


def _two_texts(pair: Pair) -> str:
    """Two texts as one input, whose types tell an encoder which is which."""
    made: list[dict[str, Ids]] = []
    for side in pair:
        try:
            made.append(dict(side("one text", "and another", verbose=False)))
        except Exception as error:
            made.append({"input_ids": reason(error)})
    before, after = made
    if isinstance(before["input_ids"], str):
        return ""
    if told := parting(pair, (before["input_ids"], after["input_ids"]), "two texts as one input"):
        return f"the tokenizers differ: {told}"
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if not names:
        return ""
    shown = [snippet(str(one.get(names[0], "nothing")), SHOWN) for one in made]
    return (
        f"the tokenizers differ: {names[0]} of two texts as one input is {shown[0]} for the "
        f"baseline and {shown[1]} for the candidate"
    )


def _decoded(pair: Pair, texts: dict[str, str]) -> str:
    found = {}
    for name, ids in zip(texts, encode(pair[0], list(texts.values())), strict=True):
        if isinstance(ids, list):
            found[name] = decoding(pair, ids)
    return first_of(found, "the same tokens are decoded to other text, as of")


def decoding(pair: Pair, ids: list[int]) -> str:
    """How the text of the same tokens differs; with special tokens, and without them."""
    for skip in (False, True):
        before, after = (_text(side, ids, skip) for side in pair)
        if before != after:
            return text_difference(before, after)
    return ""


def text_difference(before: str, after: str) -> str:
    """Two different texts from a little before the place where they part."""
    place = first_difference(before, after)
    here = slice(max(place - 10, 0), place + 30)
    one, two = snippet(before[here], SHOWN), snippet(after[here], SHOWN)
    return f"{one} for the baseline and {two} for the candidate"


def _text(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], skip: bool) -> str:
    try:
        return tokenizer.decode(ids, skip_special_tokens=skip)
    except Exception as error:
        return reason(error)


def _context(baseline: Checkpoint, candidate: Checkpoint) -> str:
    before, after = baseline.context, candidate.context
    if before is not None and after is not None and after < before:
        return shorter_context(before, after)
    return ""


def shorter_context(baseline: int, candidate: int) -> str:
    """That a candidate takes fewer tokens than its baseline."""
    return f"the candidate takes {candidate} tokens at most, the baseline {baseline}"
