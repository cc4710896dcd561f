"""Text tables that fit the width of a terminal."""

import itertools
import textwrap
from collections.abc import Callable, Sequence

NARROWEST_NAME, NARROWEST_CELL = 12, 24
"""Smallest widths in characters to which names are shortened and cells are wrapped."""

GAP = "  "
Row = Sequence[str]


def fit_table(
    heads: Row, rows: Sequence[Row], width: int, keys: int = 1, align: str = "right"
) -> str:
    """Return a table whose lines have at most ``width`` characters.

    Columns that do not fit are moved to further blocks below, each of which repeats the first
    ``keys`` columns. Cells of a column that is too wide by itself are wrapped between words; if
    that does not suffice, the names in the first column are shortened.

    Args:
        heads: headings of the columns.
        rows: cells, as many per row as there are headings.
        width: largest number of characters per line.
        keys: number of columns that every block repeats.
        align: ``left`` or ``right``, for the other columns.
    """
    table = [list(heads), *map(list, rows)]
    room = max(
        width - _width(_rendered(table, range(keys), keys, align)) - len(GAP), NARROWEST_CELL
    )
    table = [[*row[:keys], *(_wrapped(cell, room) for cell in row[keys:])] for row in table]
    columns = range(keys, len(heads))

    def width_of(chosen: Sequence[int]) -> int:
        return _width(_rendered(table, [*range(keys), *chosen], keys, align))

    excess = max((width_of([column]) for column in columns), default=0) - width
    if excess > 0:
        longest = max(len(row[0]) for row in table)
        short = shortened([row[0] for row in table], max(longest - excess, NARROWEST_NAME))
        table = [[name, *row[1:]] for name, row in zip(short, table, strict=True)]
    blocks = _blocks(columns, lambda chosen: width_of(chosen) <= width)
    return "\n\n".join(
        _rendered(table, [*range(keys), *block], keys, align) for block in blocks or [[]]
    )


def wrapped_note(line: str, width: int, indent: int) -> str:
    """Return a note in lines of at most ``width`` characters, if its words allow, of which all but
    the first are indented."""
    return textwrap.fill(
        line, width, subsequent_indent=" " * indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def shortened(names: Sequence[str], length: int) -> list[str]:
    """Return names of at most ``length`` characters, without the middle of longer ones.

    The cut is placed such that different names stay different. If no place does that, a number is
    appended to names that would be equal.
    """
    for tail in sorted(range(1, length - 1), key=lambda tail: abs(tail - length // 2)):
        short = [_without_middle(name, length, tail) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    texts = {name: name for name in names if len(name) <= length}
    used = set(texts)
    for name in names:
        if name in texts:
            continue
        for number in itertools.count(1):
            mark = f"…{number}" if number > 1 else ""
            room = length - len(mark)
            text = _without_middle(name, room, room // 2) + mark
            if text not in used:
                break
        texts[name] = text
        used.add(text)
    return [texts[name] for name in names]


def _without_middle(name: str, length: int, tail: int) -> str:
    if len(name) <= length:
        return name
    return f"{name[: length - tail - 1]}…{name[len(name) - tail :]}"


def _blocks(columns: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> list[list[int]]:
    blocks: list[list[int]] = []
    for column in columns:
        if blocks and fits([*blocks[-1], column]):
            blocks[-1].append(column)
        else:
            blocks.append([column])
    return blocks


def _rendered(table: Sequence[Row], columns: Sequence[int], keys: int, align: str) -> str:
    cells = [[row[column].split("\n") for column in columns] for row in table]
    widths = [max(len(line) for row in cells for line in row[i]) for i in range(len(columns))]
    pads = [str.ljust if column < keys or align == "left" else str.rjust for column in columns]

    def lines(row: Sequence[Sequence[str]]) -> list[str]:
        by_line = itertools.zip_longest(*row, fillvalue="")
        return [
            GAP.join(pad(part, width) for pad, part, width in zip(pads, parts, widths, strict=True))
            for parts in by_line
        ]

    head, *body = map(lines, cells)
    rule = GAP.join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in [*head, rule, *itertools.chain(*body)])


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def _wrapped(cell: str, room: int) -> str:
    return "\n".join(
        part
        for line in cell.splitlines() or [""]
        for part in textwrap.wrap(line, room, break_long_words=False) or [""]
    )
