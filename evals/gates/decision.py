"""The decision that a run ends with: release, do not release, or cannot tell.

A candidate is released only if every critical gate is proven to hold and no supporting gate is
refuted. Requiring that each of several gates is proven at a level bounds the rate of false releases
at that level, whatever the number of gates (an intersection-union test, Berger 1982), so the proofs
need no correction for multiple testing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from compression_gates.evals.errors import listed
from compression_gates.evals.gates.explain import settled_by
from compression_gates.evals.gates.gate import (
    ADVISORY,
    CRITICAL,
    FAILED,
    INCONCLUSIVE,
    NOT_JUDGED,
    PASSED,
    SUPPORTING,
    Verdict,
)
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.units import counted

RELEASE, REFUSE, UNDECIDED = "release", "do not release", "cannot tell"
GAIN_CAUSES = (
    "check whether items of the test are in the calibration or training data, whether the baseline "
    "is the right one, and whether both sides handle prompts in the same way; distillation and "
    "training can also improve a model"
)
"""What can explain an implausible gain."""


@dataclass(frozen=True)
class CaseOutcome:
    """The verdict on a gate, and the outcome of its case.

    Attributes:
        verdict: on the gate.
        passed: whether the case passed under the policy of the run.
        reason: why the case is known to fail; empty if it is not.
        is_unexpected_pass: whether the case failed because a known failure passes.
    """

    verdict: Verdict
    passed: bool
    reason: str = ""
    is_unexpected_pass: bool = False

    @property
    def is_error(self) -> bool:
        """Whether nothing was measured because the case ended in an error."""
        return self.verdict.outcome == FAILED and self.verdict.n < 1

    @property
    def is_accepted(self) -> bool:
        """Whether it is a known failure that fails."""
        return bool(self.reason) and not self.passed and self.verdict.outcome != NOT_JUDGED

    @property
    def is_refuted(self) -> bool:
        """Whether it speaks against a release.

        A critical gate whose point estimate keeps the limit without a proof fails under the strict
        policy, but it does not speak against a release.
        """
        if self.is_error:
            return True
        if self.is_accepted or self.is_unexpected_pass or self.verdict.tier == ADVISORY:
            return False
        if self.verdict.outcome == FAILED:
            return True
        is_unproven = self.verdict.outcome == INCONCLUSIVE and self.verdict.met
        return not self.passed and not is_unproven and self.verdict.outcome != NOT_JUDGED

    @property
    def is_open(self) -> bool:
        """Whether it prevents a release without speaking against it."""
        if self.is_refuted or self.is_accepted or self.verdict.tier == ADVISORY:
            return False
        if self.is_unexpected_pass:
            return True
        if self.verdict.tier == CRITICAL:
            return self.verdict.outcome != PASSED
        # Without an interval, the gate could not be refuted.
        has_none = self.verdict.outcome == INCONCLUSIVE and not self.verdict.has_interval
        return has_none or not self.passed

    @property
    def proves_quality(self) -> bool:
        """Whether it is a critical gate on quality that is proven to hold."""
        metric = METRICS[self.verdict.metric]
        is_quality = metric.quality and metric.always_limit is None
        is_proven = self.passed and self.verdict.outcome == PASSED
        return is_quality and self.verdict.tier == CRITICAL and is_proven


@dataclass(frozen=True)
class Evidence:
    """What a run has looked at.

    Attributes:
        cases: outcomes of the gates of all candidates, without controls.
        planned: number of gates of each candidate, by its name.
        checks: number of controls and planted defects that should have run.
        checks_run: number of those that ran.
        checks_failed: names of those that failed.
        missing: what could not be judged at all, such as for lack of data.
        unchanged: of each candidate in which nothing is compressed, by its name, a sentence that
            says so.
        regressions: proven regressions since an earlier run.
        problems: other reasons why nothing is known, such as an interruption. They are also named
            if something speaks against a release.
        exit_code: of the run, as far as it is known.
    """

    cases: Sequence[CaseOutcome]
    planned: Mapping[str, int]
    checks: int = 0
    checks_run: int = 0
    checks_failed: Sequence[str] = ()
    missing: Sequence[str] = ()
    unchanged: Mapping[str, str] = field(default_factory=dict)
    regressions: Sequence[str] = ()
    problems: Sequence[str] = ()
    exit_code: int = 0


@dataclass(frozen=True)
class Decision:
    """A decision about a candidate or a run.

    Attributes:
        word: :data:`RELEASE`, :data:`REFUSE` or :data:`UNDECIDED`.
        reason: why, in one line.
        candidates: of a run, the decision about each candidate.
    """

    word: str
    reason: str
    candidates: "Mapping[str, Decision]" = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"

    def row(self) -> dict[str, object]:
        """Return the row of a report in JSON lines."""
        candidates = {
            name: {"word": decision.word, "reason": decision.reason}
            for name, decision in self.candidates.items()
        }
        return {"decision": {"word": self.word, "reason": self.reason, "candidates": candidates}}


def decide(evidence: Evidence) -> Decision:
    """Return the decision about a run, with those about its candidates.

    A run is released only if all of its candidates are, everything that the profile names was run,
    and the exit code is 0. Gates and candidates are named with the strongest evidence first.
    """
    evidence = replace(evidence, cases=sorted(evidence.cases, key=_strength))
    by_name: dict[str, list[CaseOutcome]] = {}
    for case in evidence.cases:
        by_name.setdefault(case.verdict.candidate, []).append(case)
    for name in evidence.planned:  # also if none of its gates was run
        by_name.setdefault(name, [])
    decided = {
        name: _of_candidate(
            cases, evidence.planned.get(name, len(cases)), evidence.unchanged.get(name)
        )
        for name, cases in by_name.items()
    }
    candidates = {
        name: Decision(decided[name][0], "; ".join([*decided[name][1], *_remarks(by_name[name])]))
        for name in dict.fromkeys([*evidence.planned, *decided])
    }
    against = [*_failures(by_name), *_other_failures(evidence)]
    open_reasons = _open_reasons(evidence)
    words = {decision.word for decision in candidates.values()}
    if against:
        undecided = [name for name, (word, _) in decided.items() if word == UNDECIDED]
        if undecided:
            against.append(f"nothing can be told about {listed(undecided)}")
        word, reasons = REFUSE, [*against, *evidence.problems]
    elif open_reasons or words != {RELEASE}:
        # A candidate can lack gates on quality although none of its gates is open.
        unnamed = [
            f"{name}: {'; '.join(reasons)}"
            for name, (word, reasons) in decided.items()
            if word == UNDECIDED
        ]
        reasons = open_reasons or unnamed or ["there is no candidate"]
        word = UNDECIDED
    elif evidence.exit_code:
        word = UNDECIDED
        reasons = [f"the run ends with exit code {evidence.exit_code}, and not because of a gate"]
    else:
        word, reasons = RELEASE, [_proof(evidence.cases, len(candidates))]
    return Decision(word, "; ".join([*reasons, *_remarks(evidence.cases)]), candidates)


def _strength(case: CaseOutcome) -> tuple[int, int, float, float]:
    """Sort key: what speaks against a release, then what is open, each with the strongest evidence
    first."""
    return (0 if case.is_refuted else 1 if case.is_open else 2, *case.verdict.evidence_key)


def _of_candidate(
    cases: Sequence[CaseOutcome], planned: int, unchanged: str | None
) -> tuple[str, list[str]]:
    """Return the decision about one candidate, and the reasons.

    Args:
        cases: outcomes of its gates.
        planned: number of its gates.
        unchanged: that nothing is compressed, if so.
    """
    failures = _named_failures(cases)
    reasons = [
        *_not_run(len(cases), planned, "gate"),
        *filter(None, [unchanged]),
        *_open_gates(cases),
        *_implausible(cases),
    ]
    if not reasons and not any(case.proves_quality for case in cases):
        reasons = ["no critical gate on quality is proven to hold"]
    if failures:
        return REFUSE, [failures]
    if reasons:
        return UNDECIDED, reasons
    return RELEASE, [_proof(cases)]


def _proof(cases: Iterable[CaseOutcome], candidates: int = 1) -> str:
    """Return why a release is justified."""
    cases = list(cases)
    proven = sum(c.verdict.tier == CRITICAL and not c.is_accepted for c in cases)
    of_all = f" of {candidates} candidates" if candidates > 1 else ""
    subject = f"{counted(proven, 'critical gate')}{of_all} {'is' if proven == 1 else 'are'}"
    has_supporting = any(c.verdict.tier == SUPPORTING for c in cases)
    supporting = ", and no supporting gate is refuted" if has_supporting else ""
    return f"{'all ' if proven > 1 else ''}{subject} proven to hold{supporting}"


def _failures(by_name: Mapping[str, Sequence[CaseOutcome]]) -> list[str]:
    """Return which candidates fail, in at most one line."""
    failing = {name: text for name, cases in by_name.items() if (text := _named_failures(cases))}
    if not failing:
        return []
    named = listed([f"{name} ({text})" for name, text in failing.items()])
    if len(by_name) == 1:
        return [named]
    verb = "fails" if len(failing) == 1 else "fail"
    return [f"{len(failing)} of {len(by_name)} candidates {verb}: {named}"]


def _named_failures(cases: Iterable[CaseOutcome]) -> str:
    """Return which gates of a candidate fail; empty if none does."""
    refuted = [case for case in cases if case.is_refuted]
    if any(case.is_error for case in refuted):
        return "it could not be measured"
    labels = [METRICS[case.verdict.metric].label for case in refuted]
    return f"{listed(labels)} {'fails' if len(labels) == 1 else 'fail'}" if labels else ""


def _other_failures(evidence: Evidence) -> list[str]:
    """Return what speaks against a release, except gates."""
    reasons = []
    if evidence.checks_failed:
        count = counted(len(evidence.checks_failed), "check")
        verb = "fails" if len(evidence.checks_failed) == 1 else "fail"
        reasons.append(f"{count} of the gates themselves {verb}: {listed(evidence.checks_failed)}")
    if evidence.regressions:
        reasons.append(f"worse than in the earlier run: {listed(evidence.regressions)}")
    return reasons


def _open_reasons(evidence: Evidence) -> list[str]:
    """Return why nothing can be told about a run."""
    planned = sum(evidence.planned.values())
    return [
        *evidence.problems,
        *evidence.unchanged.values(),
        *_not_run(len(evidence.cases), planned, "gate"),
        *_not_run(evidence.checks_run, evidence.checks, "control"),
        *evidence.missing,
        *_open_gates(evidence.cases, bool(evidence.missing)),
        *_implausible(evidence.cases),
    ]


def _not_run(run: int, planned: int, noun: str) -> list[str]:
    if run >= planned:
        return []
    return [f"only {run:,} of {counted(planned, noun)} {'was' if planned == 1 else 'were'} run"]


def _open_gates(cases: Iterable[CaseOutcome], data_named: bool = False) -> list[str]:
    """Return which gates are neither proven nor refuted, and what would settle them.

    Args:
        cases: the outcomes.
        data_named: whether missing data are named elsewhere.
    """
    groups: dict[str, list[str]] = {}
    for case in cases:
        verdict = case.verdict
        if not case.is_open or (data_named and verdict.has_no_data):
            continue
        name = f"{METRICS[verdict.metric].label} of {verdict.candidate}"
        if case.is_unexpected_pass:
            groups.setdefault("listed as a known failure, but passing", []).append(name)
        elif verdict.outcome == NOT_JUDGED:
            groups.setdefault("not judged", []).append(f"{name} ({verdict.reason})")
        else:
            groups.setdefault("inconclusive", []).append(f"{name} ({settled_by(verdict)})")
    return [f"{_gates_are(len(n))} {kind}: {listed(n)}" for kind, n in groups.items()]


def _gates_are(count: int) -> str:
    return f"{counted(count, 'gate')} {'is' if count == 1 else 'are'}"


def _implausible(cases: Iterable[CaseOutcome]) -> list[str]:
    gains = [
        gain_of(case.verdict)
        for case in cases
        if case.verdict.is_implausible_gain and case.verdict.tier != ADVISORY
    ]
    return [f"implausible gain: {listed(gains)}; {GAIN_CAUSES}"] if gains else []


def gain_of(verdict: Verdict) -> str:
    """Return an implausible gain in words."""
    metric = METRICS[verdict.metric]
    gain = metric.show(verdict.value, -verdict.limit)
    limit = metric.unit.exactly(metric.change(verdict.limit))
    return f"{metric.label} of {verdict.candidate} changes by {gain} with a limit of {limit}"


def _remarks(cases: Sequence[CaseOutcome]) -> list[str]:
    """Return what does not change the decision, but belongs to it."""
    remarks = []
    if known := sum(case.is_accepted for case in cases):
        verb = "is" if known == 1 else "are"
        remarks.append(f"{counted(known, 'known failure')} {verb} accepted by the profile")
    if broken := [case for case in cases if case.verdict.breaks_advice]:
        names = [f"{METRICS[c.verdict.metric].label} of {c.verdict.candidate}" for c in broken]
        limits = counted(len(names), "advisory limit")
        remarks.append(f"{limits} {'is' if len(names) == 1 else 'are'} broken: {listed(names)}")
    unjudged = [
        f"{METRICS[c.verdict.metric].label} of {c.verdict.candidate}"
        for c in cases
        if c.verdict.outcome == NOT_JUDGED and c.verdict.tier != CRITICAL and not c.is_open
    ]
    if unjudged:
        verb = "was" if len(unjudged) == 1 else "were"
        remarks.append(
            f"{counted(len(unjudged), 'gate')} that {'is' if len(unjudged) == 1 else 'are'} not "
            f"critical {verb} not judged: {listed(unjudged)}"
        )
    return remarks
