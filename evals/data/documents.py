"""Documents of the rows of a data set, where the rows do not name them. Pure functions.

Items of one document resemble each other, so intervals treat documents, and not items, as
independent.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

PASSAGE_COLUMNS = ("context", "passage", "article", "document", "paragraph", "story", "dialogue",
                   "background", "premise", "text")  # fmt: skip
"""Names of columns whose text rows can share; the first one with repeated values is used."""
MIN_PASSAGE_CHARACTERS = 80
"""Smallest length of a line that is taken for a passage if several prompts contain it."""


def document_indices(keys: Sequence[Hashable | None]) -> list[int]:
    """Return an index for each distinct key, in the order of first occurrence.

    Each None gets an index of its own.

    >>> document_indices(["a", None, "b", "a", None])
    [0, 1, 2, 0, 3]
    """
    indices: dict[Hashable, int] = {}
    return [
        indices.setdefault(("row", row) if key is None else ("key", key), len(indices))
        for row, key in enumerate(keys)
    ]


def passages(rows: Sequence[Mapping]) -> list[str | None] | None:
    """Return the passage of each row, from the first suitable column of :data:`PASSAGE_COLUMNS`.

    A suitable column has repeated values that are not all the same.

    Returns:
        None if there is no such column; in the list, None for a row without text there.
    """
    for name in PASSAGE_COLUMNS:
        column = [_text_of(row, name) for row in rows]
        counts = Counter(value for value in column if value)
        if any(count > 1 for count in counts.values()) and len(counts) > 1:
            return [value or None for value in column]
    return None


def _text_of(row: Mapping, name: str) -> str:
    """Return the text of a column whose name is compared in lower case; empty if it has none."""
    for key, value in row.items():
        if isinstance(key, str) and key.lower() == name:
            return str(value) if isinstance(value, str | int) else ""
    return ""


def shared_lines(prompts: Sequence[str]) -> list[str | None]:
    """Return the passage inside each prompt, or None.

    The passage is the first line of at least :data:`MIN_PASSAGE_CHARACTERS` characters that other
    prompts contain as well, but not more than half of all prompts. A line in more than half of them
    is an instruction.
    """
    lines = [
        [line for line in text.splitlines() if len(line) >= MIN_PASSAGE_CHARACTERS]
        for text in prompts
    ]
    counts = Counter(line for of_prompt in lines for line in set(of_prompt))
    return [
        next((line for line in of_prompt if 1 < counts[line] <= len(prompts) / 2), None)
        for of_prompt in lines
    ]
