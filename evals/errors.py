"""User errors, reported in one line without a traceback."""

from collections.abc import Sequence


class EvalError(Exception):
    """A checkpoint, a data set or a measurement that cannot be judged as requested."""


class NoCacheError(EvalError):
    """A model generates without a cache of keys and values."""


def listed(names: Sequence[str], between: str = ", ", shown: int = 3) -> str:
    """Return the first ``shown`` names and the number of the others.

    >>> listed(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return between.join(names[:shown]) + more


def kind_and_line(error: BaseException) -> str:
    """Return the type of an exception and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]
