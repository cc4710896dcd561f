"""How numbers are written: with a unit, and with the digits that tell them from a limit. Pure."""

import math
from dataclasses import dataclass

EXTRA = 4
"""Digits beyond the usual ones that are added at most to tell two numbers apart."""


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 item``, ``2,000 items``.

    Args:
        number: how many.
        noun: in the singular; the plural takes an s.
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class Unit:
    """A unit, and how a number in it is written.

    Attributes:
        suffix: follows the number; one that begins with a space is left out of table cells, because
            the head of the column has it.
        digits: decimal places.
        scale: factor from the stored to the written number.
        flags: of Python's format specification: ``+`` for a sign, ``,`` for thousands.
        end_digits: decimal places of the ends of an interval; ``digits`` unless given.

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
        """``value`` with as many decimal places as tell it from ``other``, but no fewer than usual.

        Numbers that :data:`EXTRA` places do not tell apart are written as ``just below`` or
        ``just above`` the other one. ``bare`` leaves out a suffix that begins with a space.
        """
        for digits in self._choices(self.digits):
            text = self._number(value, digits)
            if value == other or math.isnan(value) or text != self._number(other, digits):
                return text + self._suffix(bare)
        side = "above" if value > other else "below"
        return f"just {side} {self.exactly(other, bare=bare)}"

    def exactly(self, value: float, signed: bool = True, bare: bool = False) -> str:
        """A limit, with all of its digits where there are not too many of them."""
        for digits in self._choices(self.digits):
            text = self._number(value, digits, signed)
            if math.isclose(float(text.replace(",", "")), value * self.scale, rel_tol=1e-9):
                return text + self._suffix(bare)
        return f"{value * self.scale:{self._sign(signed)}.3g}{self._suffix(bare)}"

    def interval(
        self, low: float, high: float, limit: float = math.nan, bare: bool = False, to: str = " to "
    ) -> str:
        """Both ends with the same number of decimal places, and the suffix once.

        As few as ``end_digits`` where that tells the ends from each other, and as many as tell them
        from ``limit``.
        """
        first = self.digits if self.end_digits is None else self.end_digits
        for digits in self._choices(first):
            ends = [self._number(end, digits) for end in (low, high)]
            bound = self._number(limit, digits)
            apart = all(
                text != bound or end == limit
                for text, end in zip(ends, (low, high), strict=True)
            )  # fmt: skip
            if apart and (ends[0] != ends[1] or low == high or digits >= self.digits):
                break
        else:
            ends = [self._number(end, self.digits) for end in (low, high)]
        return to.join(ends) + self._suffix(bare)

    def _choices(self, first: int) -> range:
        return range(first, self.digits + EXTRA + 1)

    def _number(self, value: float, digits: int, signed: bool = True) -> str:
        # "z": what is rounded to zero has no minus.
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
