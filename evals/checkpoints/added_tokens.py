"""Comparison of the added tokens of two checkpoints by their effect on texts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.encoding import TokenizerPair, both_sides, encode
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.stress import AROUND, is_control, is_reserved
from compression_gates.evals.checkpoints.tokens import decoding_difference
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import snippet

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


def compare(sides: "Sides") -> CheckpointComparison:
    """Compare the ids and the flags of all added tokens."""
    if sides.share_tokenizer:
        return CheckpointComparison()
    pair = sides.tokenizers
    before, after = map(_added, pair)
    words = pair[0].get_vocab()
    effective: list[str] = []
    ineffective: list[str] = []
    new: list[str] = []
    for content in (*before, *sorted(after.keys() - before.keys())):
        if before.get(content) == after.get(content):
            continue
        is_new = content not in before
        if is_new and after[content]["special"] and is_control(content) and content not in words:
            new.append(snippet(content))
            continue
        unused = not is_new and is_reserved(content)
        has_effect = not unused and behaves_differently(pair, content)
        texts = effective if has_effect else ineffective
        texts.append(_difference(content, before.get(content), after.get(content)))
    listings = (
        ("added token", "added tokens differ: ", effective),
        ("flags of an added token", "added tokens differ, without effect: ", ineffective),
        ("more vocabulary", "only the candidate has the added tokens ", new),
    )
    findings = [
        Finding(kind, start + listed(texts, "; ")) for kind, start, texts in listings if texts
    ]
    return CheckpointComparison(tuple(findings), ("added tokens and their flags",))


def behaves_differently(pair: TokenizerPair, content: str) -> bool:
    """Return whether a token within texts is encoded or decoded differently."""
    texts = [form.replace("{}", content) for form in AROUND] + [f"a {content.swapcase()} b"]
    before, after = (encode(side, texts) for side in pair)
    return before != after or any(
        isinstance(ids, list) and decoding_difference(pair, ids) != "" for ids in before
    )


def _added(tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, object]]:
    """Return the id and the flags of each added token by its content."""
    return {
        token.content: {"id": index, **{flag: getattr(token, flag) for flag in FLAGS}}
        for index, token in tokenizer.added_tokens_decoder.items()
    }


def _difference(
    content: str, before: Mapping[str, object] | None, after: Mapping[str, object] | None
) -> str:
    if before is None:
        return f"{snippet(content)} is no added token of the baseline"
    if after is None:
        return f"{snippet(content)} ({before['id']}) is no added token of the candidate"
    shown = ", ".join(
        f"{name}={both_sides(before[name], after[name])}"
        for name in before
        if before[name] != after[name]
    )
    return f"{snippet(content)} has {shown}"
