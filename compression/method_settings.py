"""Types of the settings of a recipe, validated by pydantic.

The description of a type names its valid values, such as "true or false"; errors and the list of
methods show it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

LARGEST_FLOAT, LARGEST_INTEGER = 1e6, 2**31 - 1
"""Larger numbers are never sensible, and some would overflow."""
SMALLEST_SHARE = 0.01
"""A smaller share of the weights is almost certainly a confusion of shares and percentages."""


@dataclass(frozen=True)
class Hint:
    """Annotation of a type with what to do about an invalid value, given the value."""

    text: Callable[[object], str]


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    Attributes:
        type: a pydantic type, annotated with a description of its valid values.
        default: the value if none is given.
        help: description, in one line.
    """

    type: Any
    default: object
    help: str

    def __post_init__(self) -> None:
        if not self.choices:
            raise TypeError(f"setting type {self.type!r} has no description of its valid values")

    @property
    def choices(self) -> str:
        """Description of the valid values."""
        fields = (part for part in self._annotations if isinstance(part, FieldInfo))
        return next((field.description for field in fields if field.description), "")

    def validate(self, value: object) -> object:
        """Convert a value from a table, or its text, to the type of the setting.

        Raises:
            ValueError: describes the valid values.
        """
        try:
            return self._adapter.validate_python(value)
        except ValidationError:
            hints = [part.text(value) for part in self._annotations if isinstance(part, Hint)]
            raise ValueError("".join([self.choices, *hints])) from None

    @property
    def _annotations(self) -> tuple[object, ...]:
        return getattr(self.type, "__metadata__", ())

    @cached_property
    def _adapter(self) -> TypeAdapter:
        return TypeAdapter(self.type)


def _split(value: object) -> object:
    """Split the text ``a|b``; reject what is neither a text nor a list."""
    value = value.split("|") if isinstance(value, str) else value
    if not isinstance(value, list | tuple):
        raise ValueError
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _percent(value: object) -> str:
    """Return a hint for a percentage given in place of a share, or an empty string."""
    return f"; {value:g} % is {value / 100:g}" if _is_number(value) and 1 < value <= 100 else ""


def _reject_integer_one(value: object) -> object:
    """Reject 1, which may mean 1 % as well as all weights; 1.0 is unambiguous."""
    if type(value) is int and value == 1:
        raise ValueError
    return value


def _reject_tiny(value: float) -> float:
    if 0 < value < SMALLEST_SHARE:
        raise ValueError
    return value


def _sparsity_hint(value: object) -> str:
    if type(value) is int and value == 1:
        return "; for 1 % write 0.01, for all weights 1.0"
    if _is_number(value) and 0 < value < SMALLEST_SHARE:
        return f"; {value * 100:g} % of the weights is too little to be useful"
    return _percent(value)


def _parse_pattern(value: object) -> object:
    """Parse the text ``N:M``; a tuple is a pattern that was parsed before."""
    match = re.fullmatch(r"(\d+):(\d+)", value) if isinstance(value, str) else None
    return (int(match[1]), int(match[2])) if match else value


def _check_pattern(value: tuple[int, int]) -> tuple[int, int]:
    if not 0 < value[0] < value[1]:
        raise ValueError
    return value


def _pattern_hint(value: object) -> str:
    pattern = _parse_pattern(value)
    if isinstance(pattern, tuple) and 0 < pattern[1] < pattern[0]:
        return f"; to keep {pattern[1]} of every {pattern[0]} give {pattern[1]}:{pattern[0]}"
    return ""


boolean = Annotated[bool, Field(strict=True, description="true or false")]
string = Annotated[str, Field(strict=True, min_length=1, description="a string")]
strings = Annotated[
    tuple[string, ...], BeforeValidator(_split), Field(description="a list of strings")
]
pair = Annotated[
    tuple[string, string], BeforeValidator(_split), Field(description="a list of two strings")
]
share = Annotated[
    float, Field(strict=True, ge=0, le=1, description="a share between 0 and 1"), Hint(_percent)
]
kept_share = Annotated[
    float,
    Field(
        strict=True, ge=SMALLEST_SHARE, le=1, description=f"a share from {SMALLEST_SHARE:g} to 1"
    ),
    Hint(_percent),
]
sparsity = Annotated[
    float,
    BeforeValidator(_reject_integer_one),
    AfterValidator(_reject_tiny),
    Field(strict=True, ge=0, le=1, description=f"a share from {SMALLEST_SHARE:g} to 1, or 0"),
    Hint(_sparsity_hint),
]
n_of_m = Annotated[
    tuple[int, int],
    BeforeValidator(_parse_pattern),
    AfterValidator(_check_pattern),
    Field(strict=True, description="N:M with 0 < N < M, such as 2:4"),
    Hint(_pattern_hint),
]


def positive(most: float) -> Any:
    """Return the type of numbers above 0 and up to ``most``."""
    valid = f"a number above 0 and up to {most:g}"
    return Annotated[float, Field(strict=True, gt=0, le=most, description=valid)]


def integer(least: int, most: int = LARGEST_INTEGER) -> Any:
    """Return the type of integers from ``least`` to ``most``."""
    valid = f"an integer from {least} to {most}"
    return Annotated[int, Field(strict=True, ge=least, le=most, description=valid)]


def one_of(*choices: str) -> Any:
    """Return the type of a choice."""
    return Annotated[Literal[choices], Field(description=f"one of {', '.join(choices)}")]


def weights(*names: str) -> Any:
    """Return the type of a table of weights by name, or of the text ``response|attention:0.5``.

    The value is a tuple of names and weights in the order of ``names``.
    """

    def parse(value: object) -> object:
        if isinstance(value, str):
            parts = [part.partition(":") for part in value.split("|")]
            return {name: float(weight or 1) for name, _, weight in parts}
        return dict(value) if isinstance(value, tuple) else value

    def in_order(value: dict[str, float]) -> tuple[tuple[str, float], ...]:
        return tuple((name, value[name]) for name in names if name in value)

    weight = Annotated[float, Field(strict=True, gt=0, le=LARGEST_FLOAT)]
    valid = f"weights above 0 for some of {', '.join(names)}"
    return Annotated[
        dict[Literal[names], weight],
        BeforeValidator(parse),
        AfterValidator(in_order),
        Field(min_length=1, description=valid),
    ]


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
