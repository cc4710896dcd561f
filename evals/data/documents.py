"""Which document each row of a data set belongs to, where the rows do not say so. Pure.

Items of one document resemble each other, so intervals take documents, not items, as independent.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

PASSAGES = ("context", "passage", "article", "document", "paragraph", "story", "dialogue",
            "background", "premise", "text")  # fmt: skip
"""Names of columns that hold what several questions may be about; the first that recurs counts."""
LONG = 80
"""Characters from which on a line that recurs in several prompts is taken for their passage."""


def numbered(keys: Sequence[Hashable | None]) -> list[int]:
    """An index for each distinct key, in the order of their first places; None is always new.

    >>> numbered(["a", None, "b", "a", None])
    [0, 1, 2, 0, 3]
    """
    known: dict[Hashable, int] = {}
    return [
        known.setdefault(("own", place) if key is None else ("key", key), len(known))
        for place, key in enumerate(keys)
    ]


def passages(rows: Sequence[Mapping]) -> list[str | None] | None:
    """The passage of each row: the text of the first column of :data:`PASSAGES` whose values
    recur and are not all the same. None where there is no such column."""
    for name in PASSAGES:
        column = [_value(row, name) for row in rows]
        counts = Counter(value for value in column if value)
        if any(count > 1 for count in counts.values()) and len(counts) > 1:
            return [value or None for value in column]
    return None


def _value(row: Mapping, name: str) -> str:
    """The text under a name, whatever its case; nothing where there is none."""
    for key, value in row.items():
        if isinstance(key, str) and key.lower() == name:
            return str(value) if isinstance(value, str | int) else ""
    return ""


def shared_lines(prompts: Sequence[str]) -> list[str | None]:
    """The passage of each prompt that holds one: its first line of at least :data:`LONG`
    characters that stands in other prompts too, and in at most half of them.

    What stands in more of them is an instruction, and makes no document.
    """
    lines = [[line for line in text.splitlines() if len(line) >= LONG] for text in prompts]
    counts = Counter(line for own in lines for line in set(own))
    return [
        next((line for line in own if 1 < counts[line] <= len(prompts) / 2), None) for own in lines
    ]
