"""Validation of the settings of a recipe.

Each validator takes a value from a table, or its text, and returns it in the type of the setting.
It raises ``ValueError`` with a description of the valid values, such as "true or false".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

LARGEST_FLOAT, LARGEST_INTEGER = 1e6, 2**31 - 1
"""Larger numbers are never sensible, and some would overflow."""
SMALLEST_SHARE = 0.01
"""A smaller share of the weights is almost certainly a confusion of shares and percentages."""


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    Attributes:
        read: validator of the setting.
        default: the value if none is given.
        help: description, in one line.
    """

    read: Callable[[object], object]
    default: object
    help: str

    @property
    def choices(self) -> str:
        """Description of the valid values, taken from the error for an invalid one."""
        try:
            self.read(None)
        except ValueError as error:
            return str(error)
        return "anything"


def share(value: object) -> float:
    """Accept a number from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"a share between 0 and 1{_percent(value)}")
    return float(value)


def sparsity(value: object) -> float:
    """Accept a sparsity: 0, or a share of the weights of at least 1 %."""
    if type(value) is int and value == 1:
        raise ValueError(
            f"0 or a share from {SMALLEST_SHARE:g} to 1; for 1 % write 0.01, for all weights 1.0"
        )
    if share(value) and value < SMALLEST_SHARE:
        raise ValueError(
            f"0 or a share from {SMALLEST_SHARE:g} to 1; {value * 100:g} % of the weights is too "
            "little to be useful"
        )
    return float(value)


def kept_share(value: object) -> float:
    """Accept a share of what is kept, of at least 1 %."""
    if not _is_number(value) or not SMALLEST_SHARE <= value <= 1:
        raise ValueError(f"a share from {SMALLEST_SHARE:g} to 1{_percent(value)}")
    return float(value)


def positive(most: float) -> Callable[[object], float]:
    """Accept a number above 0 and up to ``most``."""

    def read(value: object) -> float:
        if not _is_number(value) or not 0 < value <= most:
            raise ValueError(f"a number above 0 and up to {most:g}")
        return float(value)

    return read


def integer(least: int, most: int = LARGEST_INTEGER) -> Callable[[object], int]:
    """Accept an integer from ``least`` to ``most``."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"an integer from {least} to {most}")
        return value

    return read


def boolean(value: object) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def one_of(*choices: str) -> Callable[[object], str]:
    """Accept one of ``choices``."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return read


def string(value: object) -> str:
    """Accept a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a string")
    return value


def strings(value: object) -> tuple[str, ...]:
    """Accept a list of strings, or the text ``a|b``."""
    if isinstance(value, str):
        value = value.split("|")
    if not isinstance(value, list | tuple) or not all(isinstance(x, str) and x for x in value):
        raise ValueError("a list of strings")
    return tuple(value)


def pair(value: object) -> tuple[str, ...]:
    """Accept a list of two strings, or the text ``a|b``."""
    if len(values := strings(value)) != 2:
        raise ValueError("a list of two strings")
    return values


def weights(*names: str) -> Callable[[object], tuple[tuple[str, float], ...]]:
    """Accept a table of weights by name, or the text ``response|attention:0.5``."""

    def read(value: object) -> tuple[tuple[str, float], ...]:
        invalid = ValueError(f"weights above 0 for some of {', '.join(names)}")
        if isinstance(value, str):
            parts = [part.partition(":") for part in value.split("|")]
            try:
                value = {name: float(weight or 1) for name, _, weight in parts}
            except ValueError:
                raise invalid from None
        if isinstance(value, tuple):
            value = dict(value)
        if not isinstance(value, dict) or not value:
            raise invalid
        for name, weight in value.items():
            if name not in names or not _is_number(weight) or not 0 < weight <= LARGEST_FLOAT:
                raise invalid
        return tuple((name, float(value[name])) for name in names if name in value)

    return read


def n_of_m(value: object) -> tuple[int, int]:
    """Accept ``"N:M"``: keep N of every M."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+):(\d+)", value)
        value = match and (int(match[1]), int(match[2]))
    if not isinstance(value, tuple) or not 0 < value[0] < value[1]:
        hint = ""
        if isinstance(value, tuple) and 0 < value[1] < value[0]:
            hint = f"; to keep {value[1]} of every {value[0]} give {value[1]}:{value[0]}"
        raise ValueError(f"N:M with 0 < N < M, such as 2:4{hint}")
    return value


def text_of(value: object) -> str:
    """Format the value of a setting as in the string of a recipe."""
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
    """Return a hint for a percentage given in place of a share, or an empty string."""
    return f"; {value:g} % is {value / 100:g}" if _is_number(value) and 1 < value <= 100 else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
