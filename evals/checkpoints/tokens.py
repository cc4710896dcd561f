"""Tokenizers, chat templates and context lengths of two checkpoints."""

from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from evals.checkpoint import Checkpoint
from evals.checkpoints.findings import CheckpointComparison, Finding
from evals.data import DataSet, input_text
from evals.foreign_text import snippet

if TYPE_CHECKING:
    from evals.checkpoints.compare import Sides

SPECIAL = ("bos", "eos", "unk", "cls", "sep", "mask")
"""Tokens that mean something; padding is masked, whichever token it is."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds the tokenizers, chat templates and context lengths of two checkpoints side by side."""
    one, two = sides.tokenizers
    found = {
        "special token": _special(one, two),
        "tokens": next(filter(None, (_tokens(one, two, part) for part in sides.data)), ""),
        "chat template": _template(one, two),
        "context length": _context(sides.baseline, sides.candidate),
    }
    findings = tuple(Finding(kind, text) for kind, text in found.items() if text)
    return CheckpointComparison(findings, ("special tokens", "tokens of the data", "chat template"))


def _special(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase) -> str:
    for name in SPECIAL:
        told = [
            (getattr(side, f"{name}_token", None), getattr(side, f"{name}_token_id", None))
            for side in (one, two)
        ]
        if told[0] != told[1]:
            shown = ["none" if token is None else f"{token!r} ({index})" for token, index in told]
            return (
                f"the {name} token is {shown[0]} for the baseline and {shown[1]} for the candidate"
            )
    return ""


def _tokens(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase, data: DataSet) -> str:
    """The first token of the data that the two do not share."""
    if _are_one(one, two):
        return ""
    texts = [input_text(item) for item in data.items]
    rows = [side(texts, verbose=False).input_ids for side in (one, two)]
    for text, *ids in zip(texts, *rows, strict=True):
        if ids[0] != ids[1]:
            place = next(
                (i for i, pair in enumerate(zip(*ids, strict=False)) if pair[0] != pair[1]),
                min(map(len, ids)),
            )
            shown = [
                f"{side.convert_ids_to_tokens(own[place])!r} ({own[place]})"
                if place < len(own) else "nothing"
                for side, own in zip((one, two), ids, strict=True)
            ]  # fmt: skip
            return (
                f"the tokenizers differ: token {place + 1} of {snippet(text, 60)} in {data.name} "
                f"is {shown[0]} for the baseline and {shown[1]} for the candidate"
            )
    return ""


def _are_one(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers are the same, so that no text needs to be tokenized with both."""
    return (
        type(one) is type(two)
        and one.is_fast
        and one.split_special_tokens == two.split_special_tokens
        and one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    )


def _template(one: PreTrainedTokenizerBase, two: PreTrainedTokenizerBase) -> str:
    """Chat templates are what an instruct model was trained on, so one that changed is a defect."""
    before, after = (getattr(side, "chat_template", None) or "" for side in (one, two))
    if before == after:
        return ""
    if not before or not after:
        with_one = "candidate" if after else "baseline"
        return f"only the {with_one} has a chat template"
    pairs = zip(str(before), str(after), strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))
    shown = [snippet(str(side)[max(place - 10, 0) : place + 30], 60) for side in (before, after)]
    return (
        f"the chat templates differ from character {place + 1} on: {shown[0]} for the baseline, "
        f"{shown[1]} for the candidate"
    )


def _context(baseline: Checkpoint, candidate: Checkpoint) -> str:
    before, after = baseline.context, candidate.context
    if before is not None and after is not None and after < before:
        return f"the candidate takes {after} tokens at most, the baseline {before}"
    return ""
