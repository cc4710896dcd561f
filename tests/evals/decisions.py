"""Cases with a given evidence, and the decision about them."""

import math

from compression_gates.evals.gates.decision import (
    CaseOutcome,
    Evidence,
    decide,
)
from compression_gates.evals.gates.gate import (
    ADVISORY,
    CRITICAL,
    DEFAULT,
    Gate,
    unmeasured,
    verdict_of,
)
from compression_gates.evals.metrics.result import MetricResult, not_judged
from compression_gates.evals.statistics.estimate import Estimate

LIMIT = 0.02


# Each outcome by its point estimate and interval: a drop of accuracy with a limit of 2 points.
INTERVALS = {
    "proven": (0.0, -0.01, 0.01),
    "met": (0.015, 0.0, 0.03),
    "unmet": (0.025, 0.01, 0.04),
    "refuted": (0.05, 0.03, 0.07),
    "unbounded": (0.0, -math.inf, math.inf),
    "nan": (math.nan, math.nan, math.nan),
}
KINDS = (*INTERVALS, "not judged", "error")


def verdict(kind="proven", tier=CRITICAL, metric="accuracy_drop", name="m", limit=LIMIT):
    gate = Gate(metric, limit, tier=tier)
    if kind == "error":
        return unmeasured(name, gate)
    if kind == "not judged":
        return verdict_of(name, gate, not_judged("there is no kernel"))
    estimate = Estimate(*INTERVALS[kind], 1000, 1000)
    return verdict_of(name, gate, MetricResult(estimate, 1.0, 1.0))


def case(kind="proven", tier=CRITICAL, policy=DEFAULT, known=False, **options):
    """The outcome of a case, as pytest's strict expected failures have it."""
    judged = verdict(kind, tier, **options)
    passed = kind != "error" and judged.holds(policy)
    if known and passed and tier != ADVISORY:
        return CaseOutcome(judged, False, is_unexpected_pass=True)
    return CaseOutcome(judged, passed, "known" if known and kind != "error" and not passed else "")


def decided(*cases, **options):
    planned = {}
    for one in cases:
        planned[one.verdict.candidate] = planned.get(one.verdict.candidate, 0) + 1
    return decide(Evidence(cases, **{"planned": planned, **options}))


PROVEN = case(metric="flips")
"""A gate that lets nothing but the other case decide."""
