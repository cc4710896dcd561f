"""Encoding and decoding with two tokenizers, and the first difference between their results."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from compression_gates.evals.errors import kind_and_line
from compression_gates.evals.foreign_text import first_difference, snippet
from compression_gates.evals.guard import is_panic

Result = TypeVar("Result")
TokenizerPair = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]
"""The tokenizers of a baseline and of a candidate."""
TokenIds = list[int] | str
"""The tokens of a text, or the reason why it cannot be encoded."""
SHOWN = 60
"""Characters of a text or a token that a message shows."""
LONGEST_REASON = 120


def result_or_reason(call: Callable[[], Result]) -> Result | str:
    """Return the result of ``call``, or one line that states why it failed.

    Tokenizers come from checkpoints, so any exception is possible, including a panic of the Rust
    library.
    """
    try:
        return call()
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        return reason(error)


def reason(error: BaseException) -> str:
    """Return the type and the first line of an error, escaped and shortened."""
    return kind_and_line(error).encode("unicode_escape").decode()[:LONGEST_REASON]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options) -> list[TokenIds]:
    """Return the tokens of each text, including special tokens unless ``options`` exclude them."""
    return [
        result_or_reason(
            lambda text=text: list(tokenizer(text, verbose=False, **options).input_ids)
        )
        for text in texts
    ]


def decode(
    tokenizer: PreTrainedTokenizerBase | Tokenizer, ids: Sequence[int], skip_special_tokens: bool
) -> str:
    """Return the text of tokens, or the reason why they cannot be decoded."""
    return result_or_reason(lambda: tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def adds_special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """Return whether a tokenizer adds the ``bos`` token before a text and ``eos`` after it."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    return {
        "bos": whole != bare and whole[:1] == [tokenizer.bos_token_id],
        "eos": whole != bare and whole[-1:] == [tokenizer.eos_token_id],
    }


def token_difference(pair: TokenizerPair, ids: tuple[TokenIds, TokenIds], source: str) -> str:
    """Describe the first token that differs between the baseline and the candidate.

    Args:
        ids: the tokens of both sides.
        source: what was encoded, as the message names it.

    Returns:
        One line; empty if the tokens are equal, or if the baseline cannot encode the text.
    """
    before, after = ids
    if isinstance(before, str) or before == after:
        return ""
    if isinstance(after, str):
        return f"the candidate's tokenizer fails on {source}: {after}"
    place = first_difference(before, after)
    shown = [
        token_text(tokenizer, tokens[place]) if place < len(tokens) else "nothing"
        for tokenizer, tokens in zip(pair, ids, strict=True)
    ]
    return f"token {place + 1} of {source} is {both_sides(*shown)}"


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Return a token and its id, as messages show them."""
    return f"{snippet(str(tokenizer.convert_ids_to_tokens(token_id)), SHOWN)} ({token_id})"


def text_difference(before: str, after: str) -> str:
    """Show two different texts, from ten characters before the first difference."""
    place = first_difference(before, after)
    excerpt = slice(max(place - 10, 0), place + 30)
    return both_sides(*(snippet(text[excerpt], SHOWN) for text in (before, after)))


def both_sides(baseline: object, candidate: object) -> str:
    """Return the words with which messages show the values of both sides."""
    return f"{baseline} for the baseline and {candidate} for the candidate"
