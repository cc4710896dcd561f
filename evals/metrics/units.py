"""Formatting of numbers: with a unit, and with enough digits to distinguish them from a limit."""

import math
from dataclasses import dataclass

EXTRA_DIGITS = 4
"""Largest number of digits that are added to distinguish two numbers."""


def counted(number: int, noun: str) -> str:
    """Return a number with a noun: ``1 item``, ``2,000 items``.

    Args:
        number: number of things.
        noun: singular of a noun with a regular plural.
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class Unit:
    """A unit, and how numbers in it are formatted.

    Attributes:
        suffix: follows the number; a suffix that begins with a space is omitted in table cells,
            because the column heading has it.
        digits: decimal places.
        scale: factor from the stored to the displayed number.
        flags: of Python's format specification: ``+`` for a sign, ``,`` for thousands.
        end_digits: decimal places of the ends of an interval; default ``digits``.

    >>> points = Unit(" pt", digits=2, scale=100, flags="+", end_digits=1)
    >>> points(-0.1333), points.interval(-0.167, -0.104)
    ('-13.33 pt', '-16.7 to -10.4 pt')
    >>> Unit("x", digits=2).beside(0.79920174, 0.8)
    '0.799x'
    """

    suffix: str
    digits: int
    scale: float = 1.0
    flags: str = ""
    end_digits: int | None = None

    def __call__(self, value: float) -> str:
        return self._number(value, self.digits) + self.suffix

    def beside(self, value: float, other: float, bare: bool = False) -> str:
        """Format ``value`` with enough decimal places to distinguish it from ``other``.

        If :data:`EXTRA_DIGITS` further places do not suffice, the value is written as ``just
        below`` or ``just above`` the other one. ``bare`` omits a suffix that begins with a space.
        """
        for digits in self._choices(self.digits):
            text = self._number(value, digits)
            if value == other or math.isnan(value) or text != self._number(other, digits):
                return text + self._suffix(bare)
        side = "above" if value > other else "below"
        return f"just {side} {self.exactly(other, bare=bare)}"

    def exactly(self, value: float, signed: bool = True, bare: bool = False) -> str:
        """Format a limit with all of its digits, unless there are too many."""
        for digits in self._choices(self.digits):
            text = self._number(value, digits, signed)
            if math.isclose(float(text.replace(",", "")), value * self.scale, rel_tol=1e-9):
                return text + self._suffix(bare)
        return f"{value * self.scale:{self._sign(signed)}.3g}{self._suffix(bare)}"

    def rounded(self, value: float, digits: int) -> str:
        """Format an amount with a given number of decimal places, and without a sign.

        >>> Unit(" nats", digits=4).rounded(0.00012, 3)
        '<0.001 nats'
        """
        if 0 < abs(value * self.scale) < 0.5 * 10**-digits:
            return f"<{10**-digits:.{digits}f}{self.suffix}"
        return self._number(abs(value), digits, signed=False) + self.suffix

    def interval(
        self, low: float, high: float, limit: float = math.nan, bare: bool = False, to: str = " to "
    ) -> str:
        """Format both ends with the same number of decimal places, and the suffix once.

        The number of places is the smallest, from ``end_digits`` on, that distinguishes the ends
        from each other and from ``limit``.
        """
        first = self.digits if self.end_digits is None else self.end_digits
        for digits in self._choices(first):
            ends = [self._number(end, digits) for end in (low, high)]
            bound = self._number(limit, digits)
            is_distinct = all(
                text != bound or end == limit
                for text, end in zip(ends, (low, high), strict=True)
            )  # fmt: skip
            if is_distinct and (ends[0] != ends[1] or low == high or digits >= self.digits):
                break
        else:
            ends = [self._number(end, self.digits) for end in (low, high)]
        return to.join(ends) + self._suffix(bare)

    def _choices(self, first: int) -> range:
        return range(first, self.digits + EXTRA_DIGITS + 1)

    def _number(self, value: float, digits: int, signed: bool = True) -> str:
        # "z" drops the sign of a number that is rounded to zero.
        grouped = "," if "," in self.flags else ""
        return f"{value * self.scale:{self._sign(signed)}z{grouped}.{digits}f}"

    def _sign(self, signed: bool) -> str:
        return "+" if signed and "+" in self.flags else ""

    def _suffix(self, bare: bool) -> str:
        return "" if bare and self.suffix.startswith(" ") else self.suffix


RISE = Unit("%", digits=2, scale=100, flags="+")
POINTS = Unit(" pt", digits=2, scale=100, flags="+", end_digits=1)
PERCENT = Unit("%", digits=2, scale=100)
NATS = Unit(" nats", digits=4)
TIMES = Unit("x", digits=2)
PLAIN = Unit("", digits=3)
COUNT = Unit("", digits=0)
