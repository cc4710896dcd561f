"""What changed since the reference of a history, which is the run that was accepted last."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from compression_gates.evals.errors import listed
from compression_gates.evals.gates.earlier import Record
from compression_gates.evals.gates.families import HOLM, family_bound
from compression_gates.evals.gates.nightly import NIGHTS
from compression_gates.evals.gates.rises import incomparable, is_measured, pairing
from compression_gates.evals.gates.watch import (
    DRIFT,
    Watched,
    decide,
    improved,
    watch,
)
from compression_gates.evals.history.database import History
from compression_gates.evals.history.runs import ENVIRONMENT, StoredCase, StoredRun
from compression_gates.evals.history.series import GateSeries, positions_of_steps, series_of
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.units import counted
from compression_gates.evals.statistics.item_values import Key

REGRESSED, IMPROVED, UNCHANGED = "regressed", "improved", "unchanged"
INCOMPARABLE, UNMEASURED, NEW, GONE = "not comparable", "not measured", "new", "gone"
"""Categories of gates. A gate that is not measured in one of the two runs has a case in both."""
MOVED = 1e-4
"""Relative change of a baseline's own value from which on it is reported. Rounding in another order
changes the last digits of a perplexity, which is well below."""
MAX_RUNS = 30
"""Number of latest runs, beside the reference, in which steps and drifts are looked for: as many as
the longest window of :data:`evals.statistics.drift.WINDOWS`."""


@dataclass(frozen=True)
class GateChange:
    """What became of a gate since the reference.

    Attributes:
        candidate, metric: of the gate.
        category: :data:`REGRESSED`, :data:`IMPROVED`, :data:`UNCHANGED`, :data:`INCOMPARABLE`,
            :data:`UNMEASURED`, :data:`NEW` or :data:`GONE`.
        before, after: its values in the reference and in this run; NaN where there is none.
        paired: number of items that were compared one by one; 0 if none were.
        kinds: the kinds of tests that prove a regression, see :mod:`evals.gates.watch`.
        step: the run that begins the worse level, in words; empty if no step fits the values. If
            the run before it was not compared, the step may be there, and no commit is named.
        drift: number of runs over which it drifts; 0 if that is not proven.
        reason: why it was not compared; empty if it was.
    """

    candidate: str
    metric: str
    category: str
    before: float = math.nan
    after: float = math.nan
    paired: int = 0
    kinds: tuple[str, ...] = ()
    step: str = ""
    drift: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.candidate} {self.metric}"

    def __str__(self) -> str:
        show = METRICS[self.metric].show
        values = f"{show(self.before, self.after)} -> {show(self.after, self.before)}"
        parts = [f"{self.name} {values}"]
        if self.drift:
            parts.append(f"drifting over {counted(self.drift, 'run')}")
        if self.step:
            parts.append(f"since {self.step}")
        return ", ".join(parts)


@dataclass(frozen=True)
class WhatChanged:
    """The comparison of a run with the reference of its profile.

    Attributes:
        reference: the run; None if this is the first one.
        changes: one for each gate of either run.
        moved: a line for each baseline whose own numbers changed on the same data.
        notes: further remarks.
        problem: why nothing could be compared, if the history cannot be read.
        family: method of the correction for multiple testing.
        series: of each gate of this run, over the latest :data:`MAX_RUNS` runs of the profile and
            this one.
    """

    reference: StoredRun | None
    changes: Sequence[GateChange] = ()
    moved: Sequence[str] = ()
    notes: Sequence[str] = ()
    family: str = HOLM
    problem: str = ""
    series: Sequence[GateSeries] = ()

    def of(self, category: str) -> list[GateChange]:
        """Return the gates of a category."""
        return [change for change in self.changes if change.category == category]

    @property
    def regressions(self) -> list[GateChange]:
        return self.of(REGRESSED)

    @property
    def compared(self) -> int:
        """Number of gates that were compared."""
        return sum(len(self.of(name)) for name in (REGRESSED, IMPROVED, UNCHANGED))

    def lines(self) -> list[str]:
        """Return the lines of the summary, the most important first."""
        lines = [f"BASELINE MOVED: {line}" for line in self.moved]
        if self.problem:
            return [f"nothing was compared: {self.problem}"]
        if self.reference is None:
            return ["the first run of this profile, so there is nothing to compare with"]
        if not self.compared:
            lines.append("no gate has a comparable value in both runs")
        elif self.regressions:
            bound = family_bound(self.family, NIGHTS)
            lines.append(f"WORSE ({bound}): {_listed(map(str, self.regressions))}")
        else:
            total = counted(len(self.changes) - len(self.of(GONE)), "gate")
            lines.append(
                f"nothing got worse beyond noise in {self.compared:,} of {total} "
                f"({family_bound(self.family, NIGHTS)})"
            )
        accepted = self.reference.acceptance is not None
        how = "accepted" if accepted else "the first run, because none was accepted"
        color = "" if self.reference.is_green else "; it is red"
        lines.append(f"compared with {self.reference.label}, {how}{color}")
        lines += self.notes
        if better := self.of(IMPROVED):
            lines.append(f"improved: {_listed(map(str, better))}")
        if unchanged := self.of(UNCHANGED):
            paired = sum(change.paired > 0 for change in unchanged)
            lines.append(
                f"unchanged within noise: {counted(len(unchanged), 'gate')}, {paired} compared "
                "item by item"
            )
        for category in (INCOMPARABLE, UNMEASURED):
            for reason in dict.fromkeys(change.reason for change in self.of(category)):
                names = [c.name for c in self.of(category) if c.reason == reason]
                lines.append(f"{category}, {reason}: {listed(names)}")
        for category, where in ((NEW, "not in the reference"), (GONE, "not in this run")):
            if names := [change.name for change in self.of(category)]:
                lines.append(f"{category}, {where}: {listed(names)}")
        return lines

    def unproven(self) -> list[str]:
        """Return why it is not proven that nothing got worse: if there is a reference, but nothing
        to compare with it. For the first run of a history, which has none, nothing is returned."""
        return [] if self.reference is None or self.compared else self.lines()

    def rows(self) -> Iterable[dict[str, object]]:
        """Yield the row of the report in JSON lines."""
        reference = self.reference
        yield {
            "history": {
                "reference": None if reference is None else reference.id,
                "time": "" if reference is None else reference.time,
                "commit": "" if reference is None else reference.commit,
                "accepted": reference is not None and reference.acceptance is not None,
                "moved": list(self.moved),
                "changes": [
                    {name: value for name, value in vars(change).items() if value != ""}
                    for change in self.changes
                ],
            }
        }


def _listed(texts: Iterable[str]) -> str:
    return listed(list(texts), "; ")


def what_changed(
    run: StoredRun, cases: Sequence[StoredCase], history: History, family: str = HOLM
) -> WhatChanged:
    """Compare a run that is not stored yet with the reference of its profile.

    Every gate is tested against the reference, for steps and for drifts, with one decision over all
    gates; see :mod:`evals.gates.watch`.

    Args:
        run: this run.
        cases: its cases.
        history: the earlier runs.
        family: method of the correction for multiple testing.

    Raises:
        EvalError: the history is damaged.
    """
    stored_runs = history.runs(run.profile)
    reference = history.reference(run.profile)
    if reference is None:
        series = [series_of([run], {run.id: case}) for case in cases]
        return WhatChanged(None, family=family, series=series)
    before = {case.key: case for case in history.cases(reference.id)}
    later = [other for other in stored_runs if other.id > reference.id]
    runs = [reference, *later[-MAX_RUNS:]]
    numbers_since = [other.id for other in (reference, *later, run)]
    shown = stored_runs[-MAX_RUNS:]
    numbers = list(dict.fromkeys(other.id for other in (*runs, *shown)))
    changes: list[GateChange] = []
    tested: list[tuple[Watched, GateChange]] = []
    series: list[GateSeries] = []
    for case in cases:
        stored = history.gate(case.key, numbers, items=case.items is not None)
        series.append(series_of([*shown, run], {**stored, run.id: case}))
        if case.key not in before:
            changes.append(GateChange(*case.key, NEW, after=case.value))
            continue
        before[case.key] = stored[reference.id]
        past = [(other, stored[other.id].record) for other in runs if other.id in stored]
        change = _uncompared(case.record, past[0][1])
        if change is not None:
            changes.append(change)
        else:
            tested.append(_test(run, case.record, past, numbers_since))
    measured = {case.key for case in cases}
    changes += [
        GateChange(*key, GONE, before=case.value)
        for key, case in before.items()
        if key not in measured
    ]
    return WhatChanged(
        reference,
        [*_decided(tested, family), *changes],
        moved_baselines(run, cases, reference, before),
        _notes(run, reference),
        family,
        series=series,
    )


def _uncompared(now: Record, then: Record) -> GateChange | None:
    """Return why a gate cannot be compared with the reference; None if it can."""
    values = {"before": then.value, "after": now.value}
    for record, where in ((now, "in this run"), (then, "in the reference")):
        if not is_measured(record):
            reason = f"an error or not judged {where}"
            return GateChange(*now.key, UNMEASURED, reason=reason, **values)
    if not math.isfinite(then.value):
        reason = "no finite value in the reference"
        return GateChange(*now.key, UNMEASURED, reason=reason, **values)
    reason = incomparable(now, then)
    return GateChange(*now.key, INCOMPARABLE, reason=reason, **values) if reason else None


def _test(
    run: StoredRun,
    now: Record,
    past: Sequence[tuple[StoredRun, Record]],
    numbers: Sequence[int],
) -> tuple[Watched, GateChange]:
    """Return the tests of a gate, and its change without the decision.

    Runs are left out that have no finite value, that cannot be compared with this one, or whose
    items cannot be paired although those of the reference can.

    Args:
        run: this run.
        now: its record of the gate.
        past: the reference, and the later runs that are compared, each with its record.
        numbers: of all runs since the reference, including this one.
    """
    paired = pairing(now, past[0][1])[0]
    comparable = [
        (other, record)
        for other, record in past
        if is_measured(record)
        and math.isfinite(record.value)
        and not incomparable(now, record)
        and (pairing(now, record)[0] or not paired)
    ]
    runs = [*(other for other, _ in comparable), run]
    watched = watch([*(record for _, record in comparable), now], positions_of_steps)
    change = GateChange(
        *now.key, UNCHANGED, past[0][1].value, now.value, paired,
        step=_date(runs, watched.step, numbers), drift=watched.drift,
    )  # fmt: skip
    return watched, change


def _date(runs: Sequence[StoredRun], step: int | None, numbers: Sequence[int]) -> str:
    """Return in words which run begins a level.

    Args:
        runs: that were compared.
        step: index of the first of them on the level; None if there is no step.
        numbers: of all runs since the reference.
    """
    if step is None:
        return ""
    first = runs[step]
    if numbers[numbers.index(first.id) - 1] == runs[step - 1].id:
        return first.label
    return f"{replace(first, commit='').label}, or an earlier run that was not compared"


def _decided(tested: Sequence[tuple[Watched, GateChange]], family: str) -> list[GateChange]:
    """Return the changes with the category that the decision over all gates gives them, the
    regressions first."""
    watched = [gate for gate, _ in tested]
    decided = []
    for (gate, change), kinds, is_better in zip(
        tested, decide(watched, family), improved(watched, family), strict=True
    ):
        is_gradual = DRIFT in kinds and gate.worse_steps != 1
        change = replace(
            change,
            category=REGRESSED if kinds else IMPROVED if is_better else UNCHANGED,
            kinds=tuple(sorted(kinds)),
            drift=change.drift if is_gradual else 0,
            step=change.step if kinds and not is_gradual else "",
        )
        decided.append(change)
    return sorted(decided, key=lambda change: change.category != REGRESSED)


def moved_baselines(
    run: StoredRun,
    cases: Sequence[StoredCase],
    reference: StoredRun,
    before: Mapping[Key, StoredCase],
) -> list[str]:
    """Return a line for each number of a baseline that differs from the reference's on the same
    data, with what else differs between the runs. Timings are left out, and metrics of predictions
    without item values.

    Such a change is not one of the candidates: a library, the machine or the scoring changed.
    """
    lines: dict[str, None] = {}
    for case in cases:
        then = before.get(case.key)
        metric = METRICS.get(case.metric)
        if then is None or metric is None or metric.timed or incomparable(case.record, then.record):
            continue
        if metric.quality and case.items is None:
            continue  # such as the worst of several data sets, which can be another one now
        values = (then.baseline, case.baseline)
        if not all(map(math.isfinite, values)) or math.isclose(*values, rel_tol=MOVED):
            continue
        unit = metric.level_unit or metric.unit
        shown = " -> ".join((unit.beside(values[0], values[1]), unit.beside(values[1], values[0])))
        lines[f"{case.baseline_name} {metric.title} {shown}"] = None
    if not lines:
        return []
    differences = [
        f"{name} {then} -> {now}"
        for name in ENVIRONMENT
        if (then := getattr(reference, name)) != (now := getattr(run, name))
    ]
    why = ", ".join(differences) or "the versions and the machine are the same"
    return [f"{line} on the same data ({why})" for line in lines]


def _notes(run: StoredRun, reference: StoredRun) -> list[str]:
    if run.profile_digest != reference.profile_digest:
        return ["the profile has changed since the reference"]
    return []
