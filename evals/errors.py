"""What can go wrong before a verdict, in one line that says what to do."""

from collections.abc import Sequence


class EvalError(Exception):
    """A checkpoint, a data set or two measurements that cannot be judged as asked."""


def listed(names: Sequence[str], between: str = ", ", shown: int = 3) -> str:
    """The first names of many, and how many more there are.

    >>> listed(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return between.join(names[:shown]) + more


def kind_and_line(error: BaseException) -> str:
    """The type of an error of a library, and what it says first."""
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """What an error of a library says first."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]
