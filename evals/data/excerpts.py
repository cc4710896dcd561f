"""Prompts that are cut from plain text for a model to continue. Pure and deterministic."""

import re
from collections.abc import Iterator

from compression_gates.evals.data.items import DataSet, Prompt, Text

MAX_PROMPTS = 160
"""Largest number of prompts that are cut from a data set."""
MAX_CHARACTERS, MIN_CHARACTERS = 1000, 200
"""Length of an excerpt: longer texts are split, and shorter pieces are joined."""
MAX_CUTS = 2
"""Largest number of prompts that are cut from one excerpt if there are few excerpts."""
_PARAGRAPH, _LINE, _SENTENCE = r"\n\s*\n", r"\n", r"(?<=[.!?])\s+"


def cut_prompts(data: DataSet, count: int = MAX_PROMPTS) -> DataSet:
    """Return prompts to continue: excerpts of texts, or the prompts of ``data`` unchanged.

    An excerpt begins at the beginning of a document, paragraph, line or sentence, so that it has a
    single subject, and a prompt ends at the end of its excerpt. If there are few excerpts, each one
    is also cut at a space near its middle.

    Args:
        data: texts or prompts.
        count: largest number of prompts; they are spread evenly over the data.

    Returns:
        The prompts, with the name of ``data``; if these were prompts, also with its protocol
        overrides. Prompts of one document share its index; if there is a single document, each
        excerpt counts as a document.
    """
    if not isinstance(data.items[0], Text):
        prompts = [Prompt(item.prompt, "", item.document) for item in data.items]
        return DataSet(data.name, tuple(_spread(prompts, count)), data.overrides)
    pieces = [
        (piece.strip(), item.document)
        for item in data.items
        for piece in excerpts(item.text)
        if piece.strip()
    ]
    if len(set(data.documents)) == 1:
        pieces = [(piece, index) for index, (piece, _) in enumerate(pieces)]
    pieces = _spread(pieces, count)
    cuts = max(1, min(MAX_CUTS, count // len(pieces)))
    prompts = [
        Prompt(prompt, "", document) for piece, document in pieces for prompt in _cut(piece, cuts)
    ]
    return DataSet(data.name, tuple(prompts))


def excerpts(text: str) -> list[str]:
    """Split ``text`` into pieces of at most :data:`MAX_CHARACTERS` characters.

    A longer text is split at blank lines; without any, at the ends of lines; and a single line, at
    the ends of sentences. Pieces shorter than :data:`MIN_CHARACTERS` are joined with the following
    ones, and a remainder that is shorter is left out.

    >>> [len(piece) for piece in excerpts("x" * 600 + "\\n" + "y" * 600)]
    [600, 600]
    """
    if len(text) <= MAX_CHARACTERS:
        return [text]
    for pattern, separator in ((_PARAGRAPH, "\n\n"), (_LINE, "\n"), (_SENTENCE, " ")):
        parts = [part for part in re.split(pattern, text) if part.strip()]
        joined = _joined(parts, separator)
        # A short first part can be joined with all others, which gives the text back.
        if len(parts) > 1 and joined != [text]:
            return [piece for part in joined for piece in excerpts(part)]
    return [text[start : start + MAX_CHARACTERS] for start in range(0, len(text), MAX_CHARACTERS)]


def _joined(parts: list[str], separator: str) -> list[str]:
    """Join consecutive parts until each has :data:`MIN_CHARACTERS` characters."""
    pieces: list[str] = []
    current = ""
    for part in parts:
        current = f"{current}{separator}{part}" if current else part
        if len(current) >= MIN_CHARACTERS:
            pieces.append(current)
            current = ""
    return pieces or [current]


def _cut(piece: str, cuts: int) -> Iterator[str]:
    """Yield the whole piece, and its beginnings up to a space near each multiple of 1/cuts."""
    for number in range(cuts, 0, -1):
        end = len(piece) * number // cuts
        if end < len(piece):
            end = piece.rfind(" ", 0, end + 1)
        if end > 0:
            yield piece[:end]


def _spread(items: list, count: int) -> list:
    """Return at most ``count`` items, evenly spread, in their order."""
    if len(items) <= count:
        return items
    return [items[index * len(items) // count] for index in range(count)]
