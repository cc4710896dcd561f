"""Texts as the tokens of two tokenizers, and where the two part."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.errors import kind_and_line
from compression_gates.evals.foreign_text import snippet
from compression_gates.evals.guard import is_panic

Pair = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]
Ids = list[int] | str
"""Tokens of a text, or in one line why there are none."""
SHOWN = 60
"""Characters of a text or of a token that are shown."""
LONGEST_REASON = 120


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options) -> list[Ids]:
    """The tokens of each text, special ones included unless ``options`` say otherwise."""
    return [_encoded(tokenizer, text, options) for text in texts]


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, options: dict) -> Ids:
    try:
        return list(tokenizer(text, verbose=False, **options).input_ids)
    except BaseException as error:  # a tokenizer is the checkpoint's, and may raise anything
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        return reason(error)


def adds_around(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """Whether a tokenizer puts the ``bos`` token before a text, and the ``eos`` token behind it."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    return {
        "bos": whole != bare and whole[:1] == [tokenizer.bos_token_id],
        "eos": whole != bare and whole[-1:] == [tokenizer.eos_token_id],
    }


def reason(error: BaseException) -> str:
    """What went wrong inside a tokenizer or a template, in one line of escaped characters."""
    return kind_and_line(error).encode("unicode_escape").decode()[:LONGEST_REASON]


def first_difference(before: Sequence, after: Sequence) -> int:
    """The index at which two different sequences part; the length of one that begins the other."""
    pairs = zip(before, after, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))


def parting(pair: Pair, ids: tuple[Ids, Ids], of: str) -> str:
    """Where the candidate's tokens ``of`` something depart from the baseline's, in a line; empty
    where they are equal, or where the baseline has none."""
    before, after = ids
    if isinstance(before, str) or before == after:
        return ""
    if isinstance(after, str):
        return f"the candidate's tokenizer fails on {of}: {after}"
    place = first_difference(before, after)
    shown = [
        token_text(side, own[place]) if place < len(own) else "nothing"
        for side, own in zip(pair, ids, strict=True)
    ]
    return (
        f"token {place + 1} of {of} is {shown[0]} for the baseline and {shown[1]} for the candidate"
    )


def token_text(tokenizer: PreTrainedTokenizerBase, index: int) -> str:
    """A token and its id, as a message shows them."""
    return f"{snippet(str(tokenizer.convert_ids_to_tokens(index)), SHOWN)} ({index})"
