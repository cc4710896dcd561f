"""Added tokens of two checkpoints and their flags, judged by what becomes of them in a text."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.encoding import Pair, encode
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.stress import AROUND, is_control, is_reserved
from compression_gates.evals.checkpoints.tokens import decoding
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import snippet

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds every added token of the baseline, its id and its flags beside the candidate's."""
    if sides.share_tokenizer:
        return CheckpointComparison()
    pair = one, two = sides.tokenizers
    before, after = _added(one), _added(two)
    behaving: list[str] = []
    quiet: list[str] = []
    for content in before:
        if before[content] != after.get(content):
            broken = not is_reserved(content) and behaves_otherwise(pair, content)
            text = _difference(content, before[content], after.get(content))
            (behaving if broken else quiet).append(text)
    new: list[str] = []
    words = one.get_vocab()
    for content in sorted(after.keys() - before.keys()):
        if after[content]["special"] and is_control(content) and content not in words:
            new.append(snippet(content))
        else:
            broken = behaves_otherwise(pair, content)
            (behaving if broken else quiet).append(f"{snippet(content)} is none for the baseline")
    found = {
        "added token": _one_line("added tokens differ", behaving),
        "flags of an added token": _one_line("added tokens differ, without effect", quiet),
        "more vocabulary": f"only the candidate has the added tokens {listed(new)}" if new else "",
    }
    findings = tuple(Finding(kind, text) for kind, text in found.items() if text)
    return CheckpointComparison(findings, ("added tokens and their flags",))


def behaves_otherwise(pair: Pair, content: str) -> bool:
    """Whether a token inside a text becomes other ids, or is decoded to other text."""
    texts = [form.replace("{}", content) for form in AROUND] + [f"a {content.swapcase()} b"]
    before, after = (encode(side, texts) for side in pair)
    return before != after or any(
        isinstance(ids, list) and decoding(pair, ids) != "" for ids in before
    )


def _added(tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, object]]:
    """Id and flags of every added token by its content."""
    return {
        token.content: {"id": index, **{flag: getattr(token, flag) for flag in FLAGS}}
        for index, token in tokenizer.added_tokens_decoder.items()
    }


def _difference(
    content: str, before: Mapping[str, object], after: Mapping[str, object] | None
) -> str:
    if after is None:
        return f"{snippet(content)} ({before['id']}) is none for the candidate"
    shown = ", ".join(
        f"{name}={before[name]} for the baseline and {after[name]} for the candidate"
        for name in before
        if before[name] != after[name]
    )
    return f"{snippet(content)} has {shown}"


def _one_line(start: str, texts: list[str]) -> str:
    return f"{start}: {listed(texts, '; ')}" if texts else ""
