"""Prompts cut from plain text, for a model to continue. Pure and deterministic."""

import re
from collections.abc import Iterator

from compression_gates.evals.data.items import DataSet, Prompt, Text

PROMPTS = 160
"""Prompts that are cut from a data set at most."""
LONGEST, SHORTEST = 1000, 200
"""Characters of an excerpt: longer documents are taken apart, and short pieces joined up to it."""
CUTS = 2
"""Prompts that are cut from one excerpt at most, where there are few."""
_PARAGRAPH, _LINE, _SENTENCE = r"\n\s*\n", r"\n", r"(?<=[.!?])\s+"


def prompts_of(data: DataSet, most: int = PROMPTS) -> DataSet:
    """Prompts to continue: excerpts of the texts of ``data``, or its prompts as they are.

    A prompt begins where a document, paragraph, line or sentence begins, so that a model is asked
    about a text of its own and not about the end of one and the beginning of the next. It ends
    with its excerpt, where the model says what comes next; where there are few excerpts, each is
    also cut in the middle, at a space.

    Args:
        data: texts, or prompts.
        most: prompts, spread evenly over the data.

    Returns:
        The prompts under the name of ``data``, with what it says of protocols. Prompts of one
        document share its index; of a single document every excerpt counts as one.
    """
    if not isinstance(data.items[0], Text):
        prompts = [Prompt(item.prompt, "", item.document) for item in data.items]
        return DataSet(data.name, tuple(_spread(prompts, most)), data.overrides)
    pieces = [
        (piece, item.document)
        for item in data.items
        for piece in excerpts(item.text)
        if piece.strip()
    ]
    if len(set(data.documents)) == 1:
        pieces = [(piece, index) for index, (piece, _) in enumerate(pieces)]
    pieces = _spread(pieces, most)
    cuts = max(1, min(CUTS, most // len(pieces)))
    found = [
        Prompt(prompt, "", document)
        for piece, document in pieces
        for prompt in _cut(piece.strip(), cuts)
    ]
    return DataSet(data.name, tuple(found))


def excerpts(text: str) -> list[str]:
    """``text`` in pieces of at most :data:`LONGEST` characters.

    A longer text is split at blank lines; without any at the ends of lines; and of sentences
    where it is one line. Neighbours shorter than :data:`SHORTEST` are joined. A rest shorter than
    that is left out.

    >>> [len(piece) for piece in excerpts("x" * 600 + "\\n" + "y" * 600)]
    [600, 600]
    """
    if len(text) <= LONGEST:
        return [text]
    for pattern, between in ((_PARAGRAPH, "\n\n"), (_LINE, "\n"), (_SENTENCE, " ")):
        parts = [part for part in re.split(pattern, text) if part.strip()]
        joined = _joined(parts, between)
        if len(parts) > 1 and joined != [text]:  # a short head is joined to all that follows it
            return [piece for part in joined for piece in excerpts(part)]
    return [text[start : start + LONGEST] for start in range(0, len(text), LONGEST)]


def _joined(parts: list[str], between: str) -> list[str]:
    found: list[str] = []
    current = ""
    for part in parts:
        current = f"{current}{between}{part}" if current else part
        if len(current) >= SHORTEST:
            found.append(current)
            current = ""
    return found or [current]


def _cut(piece: str, cuts: int) -> Iterator[str]:
    """The whole piece, and its beginnings up to a space near 1/cuts, 2/cuts, … of it."""
    for number in range(cuts, 0, -1):
        end = len(piece) * number // cuts
        if end < len(piece):
            end = piece.rfind(" ", 0, end + 1)
        if end > 0:
            yield piece[:end]


def _spread(items: list, most: int) -> list:
    """At most ``most`` of the items, evenly spread, in their order."""
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]
