"""The record that describes a metric."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints.checkpoint import (
    LOG,
)
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.metrics.units import PERCENT, POINTS, Unit
from compression_gates.evals.tasks import TASKS

if TYPE_CHECKING:
    from compression_gates.evals.scores import Pair

CHANCE = 0.5
"""Accuracy of a random choice between two classes."""
NO_WEIGHTS: Mapping[str, float] = MappingProxyType({})
EVERY_MODEL: Mapping[str, tuple[str, ...]] = MappingProxyType(dict.fromkeys(TASKS, ()))
"""``needs`` of a metric that applies to every kind of model and needs no data."""
CHOICES = "log-likelihoods of choices"
"""Name, in :attr:`Metric.lm_eval`, for the log-likelihoods in a log of a multiple-choice task."""


@dataclass(frozen=True)
class Metric:
    """Everything about a metric: how it is computed, named, formatted, limited and judged.

    A change is displayed as candidate minus baseline. A metric that is stored as a *drop*, baseline
    minus candidate, is therefore displayed with the opposite sign; the methods below take stored
    numbers.

    Attributes:
        name: key in profiles and reports; the gate is ``test_NAME``.
        title: heading of its column in tables.
        promise: the requirement as a sentence, with ``{limit}`` as a placeholder.
        unit: of the judged number.
        function: takes the ``scored`` data of the baseline and of the candidate, or, if ``scored``
            is empty, the :class:`compression_gates.evals.scores.Pair` and the weights of the gate.
        scored: role that it uses, as for :meth:`compression_gates.evals.scores.Scores.get`.
        needs: for each kind of model that has the metric, the roles of data of which it needs one.
        lm_eval: patterns of its names in lm-evaluation-harness, or :data:`CHOICES`.
        order: position among the columns; default last.
        label: name in sentences, of a count a noun in the singular; default ``title``.
        level_unit: of the baseline's and the candidate's own value; None if a baseline has no own
            value, as for a distance.
        table_unit: of the baseline's own value in tables; default ``level_unit``.
        protocol_title: name before its protocol in the summary; default ``title``.
        at_most: whether it is a cost with an upper limit; otherwise a gain with a lower limit.
        drop: whether it is stored as baseline minus candidate.
        quality: whether it measures predictions, not size or speed.
        is_distance: whether it measures the distance of the candidate from the baseline, which is
            above 0 for every changed candidate.
        of_answers: whether items are answers, a share of which can be assumed to flip, and some of
            which a model that guesses gets right.
        shows_changes: whether items are right or wrong, so that tables show how many answers became
            wrong and right.
        gain_is_plausible: whether a candidate can be much better than its baseline without a
            mistake, so that a large gain is no sign of test items in the training data.
        counted: unit of the sample size: ``items``, ``documents`` (if an item is a token) or
            ``timed pairs``; empty if the interval depends on more than one count.
        workload: what an engine has to run for it, such as ``forward``; empty if nothing.
        sequential: whether it is measured until it is decided, so that only a proven regression
            fails.
        needs_naive: whether it needs the scores of the candidate's naive counterpart. Its limit
            says how many times worse than that a candidate may be, and only a proven regression
            fails.
        neutral: of a gain or a ratio, the value of the baseline against itself; None if it is the
            baseline's own value.
        ceiling: upper bound of the values; limits have to be below it.
        from_items: maps the mean of the item values to the metric, if they differ.
        parts: names of the weights of its gate.
        check_limit: returns why a limit is probably a mistake, in addition to the checks of all
            metrics, or an empty string. With ``parts`` it replaces these checks, and takes the
            limit, the weights, and whether a model that guesses is right about some items.
        fails_destroyed: whether a model with random weights breaks every limit that makes sense, so
            that it is a control of the gate.
        always_limit: limit for every candidate with a checkpoint; profiles cannot set one.
    """

    name: str
    title: str
    promise: str
    unit: Unit
    function: Callable[..., MetricResult]
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
    gain_is_plausible: bool = False
    counted: str = "items"
    workload: str = ""
    sequential: bool = False
    needs_naive: bool = False
    neutral: float | None = None
    ceiling: float = math.inf
    from_items: Callable[[float], float] | None = None
    parts: tuple[str, ...] = ()
    check_limit: Callable[..., str] | None = None
    fails_destroyed: bool = True
    always_limit: float | None = None

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"metric {self.name}: {self.function!r} is not callable")
        for name, default in (("label", self.title), ("protocol_title", self.title),
                              ("table_unit", self.level_unit)):  # fmt: skip
            object.__setattr__(self, name, getattr(self, name) or default)

    def read(self, pair: "Pair", weights: Mapping[str, float] = NO_WEIGHTS) -> MetricResult:
        """Compute the metric of a scored pair; ``weights`` are those of the gate, if it has any.

        A metric of scored data is computed once for the same two sides.
        """
        if not self.scored:
            return self.function(pair, weights)
        baseline, candidate = (side.get(self.scored) for side in (pair.baseline, pair.candidate))
        if candidate is None:
            return self.function(baseline, candidate)
        function, other, result = candidate.results.get(self.name, (None, None, None))
        if function is not self.function or other is not baseline:
            result = self.function(baseline, candidate)
            candidate.results[self.name] = self.function, baseline, result
        return result

    @property
    def timed(self) -> bool:
        """Whether it depends on how an engine runs the models."""
        return bool(self.workload)

    @property
    def is_task(self) -> bool:
        """Whether it compares answers with the right ones."""
        return self.of_answers and self.drop

    def needed_roles(self, kind: str) -> tuple[str, ...] | None:
        """Return the roles of data of which it needs one; None if the kind of model does not have
        the metric."""
        if kind == LOG:
            return () if self.lm_eval else None
        return self.needs.get(kind)

    def is_logged_as(self, name: str) -> bool:
        """Return whether ``name`` is one of its names in lm-evaluation-harness."""
        return any(fnmatch(name, pattern) for pattern in self.lm_eval)

    def limit_problem(
        self, limit: float, weights: Mapping[str, float] = NO_WEIGHTS, guessable: bool = False
    ) -> str:
        """Return why a limit is probably a mistake, or an empty string.

        Such a limit could not be broken by any candidate, or not be kept by any. Usually it is a
        percentage in place of a share, so the message suggests the corrected number.
        """
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
        """Format a value with enough digits to distinguish it from ``beside``, such as a limit."""
        return self.unit.beside(self.change(value), self.change(beside), bare)

    def show_limit(self, limit: float) -> str:
        """Format a limit with its direction: ``≤ +5.00%``, ``≥ -2.00 pt``."""
        sign = "≤" if self.at_most != self.drop else "≥"
        return f"{sign} {self.unit.exactly(self.change(limit))}"

    def show_interval(
        self, low: float, high: float, limit: float, bare: bool = False, to: str = " to "
    ) -> str:
        """Format an interval of stored values, from low to high as displayed."""
        ends = sorted((self.change(low), self.change(high)))
        return self.unit.interval(*ends, self.change(limit), bare, to)

    def change(self, value: float) -> float:
        """Return a stored number as it is displayed: a drop as candidate minus baseline."""
        return -value if self.drop else value


ScoreDrop = partial(
    Metric, unit=POINTS, level_unit=PERCENT, drop=True, of_answers=True, ceiling=1.0
)
"""A metric that is the drop of a mean score of answers, each in [0, 1]."""
