"""Everything about a metric, in one record."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import (
    CAUSAL,
    CLASSIFIER,
    EXTRACTIVE,
    LOG,
    SEQ2SEQ,
)
from compression_gates.evals.metrics.reading import Reading
from compression_gates.evals.metrics.units import PERCENT, POINTS, Unit

if TYPE_CHECKING:
    from compression_gates.evals.scores import Pair

CHANCE = 0.5
"""Accuracy of guessing between two classes."""
NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})
EVERY_MODEL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    dict.fromkeys((CAUSAL, CLASSIFIER, EXTRACTIVE, SEQ2SEQ), ())
)
"""Needs of a metric that every kind of model has, without any data of its own."""
CHOICES = "log-likelihoods of choices"
"""What a log of lm-evaluation-harness holds of a multiple-choice task, beside its metrics."""


@dataclass(frozen=True)
class Metric:
    """Everything about a metric: how it is computed, named, written, limited and judged.

    A change is shown as candidate minus baseline. A metric that is stored as a *drop*, baseline
    minus candidate, is therefore written with the opposite sign; the methods below take stored
    numbers and know.

    Attributes:
        name: the key in profiles and reports, and ``test_NAME`` is its gate.
        title: heading of its column in tables.
        promise: what a passing case says, with the limit in braces.
        unit: of the judged number.
        function: takes the ``scored`` data of the baseline and of the candidate; where ``scored``
            is empty, the :class:`compression_gates.evals.scores.Pair` and the weights of the gate.
        scored: the role that it reads, as :meth:`compression_gates.evals.scores.Scores.get` takes
            it.
        needs: for each kind of model that has the metric, the roles of data of which it needs one.
        lm_eval: patterns of the names that lm-evaluation-harness gives it, or :data:`CHOICES`.
        order: place among the columns; without one, last.
        label: what sentences call it; the title unless given.
        level_unit: writes the baseline's and the candidate's own number; None where a baseline has
            none, as it does not differ from itself.
        table_unit: writes the baseline's own number in tables; ``level_unit`` unless given.
        protocol_title: stands before its protocol in the summary; the title unless given.
        at_most: a cost, held below a limit; otherwise a gain, held above one.
        drop: stored as baseline minus candidate.
        quality: of what a model says, not of its size and speed.
        is_distance: how far the candidate is from the baseline, item by item, so that no candidate
            has 0, however good it is.
        of_answers: of answers, of which a share can be assumed to flip, and of which a model that
            guesses gets some right.
        shows_changes: tables count the items that got worse and better.
        counted: what more are needed of to narrow the interval: ``items``, ``documents`` (where an
            item is a token) or ``timed pairs``; empty where it depends on more than one count.
        timed: depends on timings.
        sequential: measured until it is decided, so that only a proven regression fails.
        neutral: of a gain, the value of the baseline beside itself; None where it is the
            baseline's own number.
        ceiling: limits have to stay below, because no value is larger.
        from_items: turns the mean of the item values into the metric, where it is another number.
        parts: names of the weights that its gate takes.
        check_limit: says why a limit cannot be meant, beyond what holds for all metrics; empty
            where it can be. With ``parts``, takes the limit, the weights, and whether a model that
            guesses is right about some items, and says all.
        always_limit: what every candidate with a checkpoint is held to; no profile sets a limit.
    """

    name: str
    title: str
    promise: str
    unit: Unit
    function: Callable[..., Reading]
    scored: str = ""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lm_eval: tuple[str, ...] = ()
    order: float = math.inf
    label: str = ""
    level_unit: Unit | None = None
    table_unit: Unit | None = None
    protocol_title: str = ""
    at_most: bool = True
    drop: bool = False
    quality: bool = True
    is_distance: bool = False
    of_answers: bool = False
    shows_changes: bool = False
    counted: str = "items"
    timed: bool = False
    sequential: bool = False
    neutral: float | None = None
    ceiling: float = math.inf
    from_items: Callable[[float], float] | None = None
    parts: tuple[str, ...] = ()
    check_limit: Callable[..., str] | None = None
    always_limit: float | None = None

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"metric {self.name}: {self.function!r} is no function")
        for name, other in (("label", self.title), ("protocol_title", self.title),
                            ("table_unit", self.level_unit)):  # fmt: skip
            object.__setattr__(self, name, getattr(self, name) or other)

    def read(self, pair: "Pair", weights: Mapping[str, float] = NO_WEIGHTS) -> Reading:
        """Reads a scored pair; ``weights`` are those of the gate, if it has any."""
        if not self.scored:
            return self.function(pair, weights)
        return self.function(pair.baseline.get(self.scored), pair.candidate.get(self.scored))

    @property
    def is_task(self) -> bool:
        """Whether it holds answers beside the right ones."""
        return self.of_answers and self.drop

    def needed_roles(self, kind: str) -> tuple[str, ...] | None:
        """The roles of which it needs one; empty where it needs none, None where a kind of model
        does not have it."""
        if kind == LOG:
            return () if self.lm_eval else None
        return self.needs.get(kind)

    def is_logged_as(self, name: str) -> bool:
        """Whether lm-evaluation-harness calls it ``name``."""
        return any(fnmatch(name, pattern) for pattern in self.lm_eval)

    def limit_problem(
        self, limit: float, weights: Mapping[str, float] = NO_WEIGHTS, guessable: bool = False
    ) -> str:
        """Why a limit cannot be meant, because no candidate could break it, or none keep it; empty
        where it can be. Most are a percentage where a share is asked for, so each complaint says
        what was probably meant."""
        if self.parts and self.check_limit:
            return self.check_limit(limit, weights, guessable)
        if limit < 0:
            why = "the baseline itself would fail" if self.at_most else "nothing would be judged"
            return f"{limit:g} is negative: {why}"
        if limit == 0 and not self.at_most:
            return "0 is always reached: nothing would be judged"
        return (self.check_limit(limit) if self.check_limit else "") or self._above_ceiling(limit)

    def _above_ceiling(self, limit: float) -> str:
        if self.of_answers and limit >= CHANCE:
            allowed = "can never be exceeded" if limit >= 1 else f"allows {limit * 100:g} points"
            return (
                f"{limit:g} {allowed}: a model that guesses would pass; "
                f"{limit:g} points are {limit / 100:g}"
            )
        if limit >= self.ceiling:
            return f"{limit:g} can never be exceeded: the metric is at most {self.ceiling:.4f}"
        return ""

    def show(self, value: float, beside: float = math.nan, bare: bool = False) -> str:
        """A value, with as many digits as tell it from ``beside``, such as the limit."""
        return self.unit.beside(self.change(value), self.change(beside), bare)

    def show_limit(self, limit: float) -> str:
        """A limit in the sense of the values: ``≤ +5.00%``, ``≥ -2.00 pt``."""
        sign = "≤" if self.at_most != self.drop else "≥"
        return f"{sign} {self.unit.exactly(self.change(limit))}"

    def show_interval(
        self, low: float, high: float, limit: float, bare: bool = False, to: str = " to "
    ) -> str:
        """An interval in the sense of the values, from low to high."""
        ends = sorted((self.change(low), self.change(high)))
        return self.unit.interval(*ends, self.change(limit), bare, to)

    def change(self, value: float) -> float:
        """A stored number as candidate minus baseline, where it is a change."""
        return -value if self.drop else value


ScoreDrop = partial(
    Metric, unit=POINTS, level_unit=PERCENT, drop=True, of_answers=True, ceiling=1.0
)
"""A metric that is the fall of a mean score of answers, each from 0 to 1."""
