"""How the settings of a recipe are read: each kind takes a value of a table, or the text of it.

A reader gives back the value in its own type, or raises ``ValueError`` with what would be right.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

LARGEST, MOST = 1e6, 2**31 - 1
"""No number beyond means anything, and some would overflow."""
SMALLEST_PART = 0.01
"""Less of the weights is not worth a recipe: half of them was meant, as a percentage or a share."""


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    Attributes:
        read: turns a table's value into the setting's own type; ``ValueError`` says what is right.
        default: its value where none is given.
        help: what it means, in a line.
    """

    read: Callable[[object], object]
    default: object
    help: str

    @property
    def choices(self) -> str:
        """What its value can be, as the complaint about another one says it."""
        try:
            self.read(None)
        except ValueError as error:
            return str(error)
        return "anything"


def share(value: object) -> float:
    """A number from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"a share between 0 and 1{_percent(value)}")
    return float(value)


def pruned(value: object) -> float:
    """A share of the weights that go: nothing, or at least one in a hundred."""
    if type(value) is int and value == 1:
        raise ValueError(
            f"0 or a share from {SMALLEST_PART:g} to 1; 1 % is 0.01, and all weights are 1.0"
        )
    if share(value) and value < SMALLEST_PART:
        raise ValueError(
            f"0 or a share from {SMALLEST_PART:g} to 1; {value * 100:g} % of the weights is next "
            "to nothing"
        )
    return float(value)


def part(value: object) -> float:
    """A share of what stays: at least one in a hundred."""
    if not _is_number(value) or not SMALLEST_PART <= value <= 1:
        raise ValueError(f"a share from {SMALLEST_PART:g} to 1{_percent(value)}")
    return float(value)


def positive(most: float) -> Callable[[object], float]:
    """A number above 0, within reason."""

    def read(value: object) -> float:
        if not _is_number(value) or not 0 < value <= most:
            raise ValueError(f"a number above 0 and up to {most:g}")
        return float(value)

    return read


def whole(least: int, most: int = MOST) -> Callable[[object], int]:
    """A whole number within bounds."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return read


def flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def one_of(*words: str) -> Callable[[object], str]:
    """One of some words."""

    def read(value: object) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return str(value)

    return read


def word(value: object) -> str:
    """Any text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def words(value: object) -> tuple[str, ...]:
    """A list of texts; as text ``a|b``."""
    if isinstance(value, str):
        value = value.split("|")
    if not isinstance(value, list | tuple) or not all(isinstance(x, str) and x for x in value):
        raise ValueError("a list of texts")
    return tuple(value)


def pair(value: object) -> tuple[str, ...]:
    """Two texts; as text ``a|b``."""
    found = words(value)
    if len(found) != 2:
        raise ValueError("a list of two texts")
    return found


def weights(*names: str) -> Callable[[object], tuple[tuple[str, float], ...]]:
    """A table of weights by name; as text ``response|attention:0.5``."""

    def read(value: object) -> tuple[tuple[str, float], ...]:
        right = f"weights above 0 for some of {', '.join(names)}"
        if isinstance(value, str):
            parts = [part.partition(":") for part in value.split("|")]
            try:
                value = {name: float(weight or 1) for name, _, weight in parts}
            except ValueError:
                raise ValueError(right) from None
        if isinstance(value, tuple):
            value = dict(value)
        if not isinstance(value, dict) or not value:
            raise ValueError(right)
        for name, weight in value.items():
            if name not in names or not _is_number(weight) or not 0 < weight <= LARGEST:
                raise ValueError(right)
        return tuple((name, float(value[name])) for name in names if name in value)

    return read


def n_of_m(value: object) -> tuple[int, int]:
    """``"N:M"``, keep N of every M."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+):(\d+)", value)
        value = match and (int(match[1]), int(match[2]))
    if not isinstance(value, tuple) or not 0 < value[0] < value[1]:
        turned = ""
        if isinstance(value, tuple) and 0 < value[1] < value[0]:
            turned = f"; to keep {value[1]} of every {value[0]} give {value[1]}:{value[0]}"
        raise ValueError(f"N:M with 0 < N < M, such as 2:4{turned}")
    return value


def text_of(value: object) -> str:
    """A setting's value as a recipe's string has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return "|".join(name if w == 1 else f"{name}:{w!r}" for name, w in value)
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return ":".join(map(str, value))
    if isinstance(value, tuple):
        return "|".join(value)
    return str(value)


def _percent(value: object) -> str:
    """What was meant by a percentage in place of a share; nothing where it is none."""
    return f"; {value:g} % is {value / 100:g}" if _is_number(value) and 1 < value <= 100 else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
