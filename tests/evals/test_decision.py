"""The decision about a release, as a truth table and by its invariants."""

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from compression_gates.evals.gates.decision import (
    REFUSE,
    RELEASE,
    UNDECIDED,
    CaseOutcome,
    Evidence,
    decide,
)
from compression_gates.evals.gates.gate import (
    ADVISORY,
    CRITICAL,
    DEFAULT,
    INCONCLUSIVE,
    SMOKE,
    STRICT,
    SUPPORTING,
    TIERS,
    Gate,
    verdict_of,
)
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.metrics.result import MetricResult
from compression_gates.evals.statistics.estimate import Estimate
from compression_gates.evals.statistics.quantiles import sample_maximum
from tests.evals.decisions import KINDS, LIMIT, PROVEN, case, decided, verdict

POLICIES = (DEFAULT, STRICT, SMOKE)


def expected(kind, tier, policy, known):
    """The rules of the README, written a second time."""
    if kind == "error":
        return REFUSE
    if tier == ADVISORY:
        return RELEASE
    holds = verdict(kind, tier).holds(policy)
    if known and holds:
        return UNDECIDED  # it is to be removed from the profile
    if known and kind != "not judged":
        return RELEASE
    if kind in ("refuted", "nan"):
        return REFUSE
    if kind == "unmet" and not holds:
        return REFUSE
    if tier == SUPPORTING:
        is_open = kind == "unbounded" or (kind == "not judged" and policy == STRICT)
        return UNDECIDED if is_open else RELEASE
    return RELEASE if kind == "proven" else UNDECIDED


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_table(kind, tier, policy, known):
    decision = decided(PROVEN, case(kind, tier, policy, known))
    assert decision.word == expected(kind, tier, policy, known), decision
    assert decision.candidates["m"].word == decision.word


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_gate_is_released_only_if_it_is_critical_and_proven(kind, tier, policy, known):
    decision = decided(case(kind, tier, policy, known))
    is_proof = kind == "proven" and tier == CRITICAL and not known
    word = expected(kind, tier, policy, known)
    assert decision.word == (UNDECIDED if word == RELEASE and not is_proof else word), decision


@pytest.mark.parametrize("policy", POLICIES)
def test_tiers_decide_which_cases_pass(policy):
    table = {
        SUPPORTING: {"met": True, "unmet": True, "refuted": False, "nan": False,
                     "unbounded": True, "not judged": policy != STRICT},
        ADVISORY: dict.fromkeys(KINDS[1:-1], True),
        CRITICAL: {"met": policy != STRICT, "unmet": policy == SMOKE, "refuted": False,
                   "nan": False, "unbounded": policy != STRICT, "not judged": policy != STRICT},
    }  # fmt: skip
    for tier, outcomes in table.items():
        for kind, passes in outcomes.items():
            assert verdict(kind, tier).holds(policy) == passes, (tier, kind)


def test_a_supporting_gate_without_an_interval_is_decided_by_its_estimate():
    broken = replace(verdict("unbounded", SUPPORTING), value=0.5, met=False)
    assert not any(broken.holds(policy) for policy in POLICIES)


def test_only_a_broken_advisory_gate_is_marked():
    assert [verdict(kind, ADVISORY).breaks_advice for kind in ("proven", "met", "not judged")] == [
        False, False, False,
    ]  # fmt: skip
    assert verdict("unmet", ADVISORY).breaks_advice
    assert verdict("nan", ADVISORY).breaks_advice
    assert not verdict("refuted", SUPPORTING).breaks_advice


CASES = st.builds(
    case,
    st.sampled_from(KINDS),
    st.sampled_from(TIERS),
    st.sampled_from(POLICIES),
    st.booleans(),
    metric=st.sampled_from(["accuracy_drop", "flips", "perplexity_drift"]),
    name=st.sampled_from(["a", "b"]),
)
SEVERAL = st.lists(CASES, min_size=1, max_size=6)


def planned_for(cases):
    return {name: sum(c.verdict.candidate == name for c in cases) for name in ("a", "b")
            if any(c.verdict.candidate == name for c in cases)}  # fmt: skip


@given(SEVERAL, st.data())
def test_a_run_without_all_of_its_cases_is_never_released(cases, data):
    kept = data.draw(st.lists(st.sampled_from(cases), max_size=len(cases) - 1))
    assert decide(Evidence(kept, planned_for(cases))).word != RELEASE


@given(SEVERAL, st.data())
def test_weaker_evidence_on_a_critical_gate_never_leads_to_a_release(cases, data):
    """A supporting gate is different by definition: a wider interval refutes less."""
    before = decide(Evidence(cases, planned_for(cases)))
    index = data.draw(st.integers(0, len(cases) - 1))
    weaker = data.draw(st.sampled_from(["met", "unbounded", "not judged"]))
    old = cases[index].verdict
    replaced = case(weaker, CRITICAL, metric=old.metric, name=old.candidate)
    after = [*cases[:index], replaced, *cases[index + 1 :]]
    assert decide(Evidence(after, planned_for(cases))).word == (
        REFUSE if before.word == REFUSE and any(c.is_refuted for c in after) else UNDECIDED
    )


@given(
    SEVERAL,
    st.sampled_from(
        [
            {"exit_code": 1}, {"missing": ["no data"]}, {"problems": ["the run was interrupted"]},
            {"checks": 2, "checks_run": 1}, {"checks_failed": ["a control"]},
            {"regressions": ["flips"]}, {"unchanged": {"a": "it is a copy"}},
            {"planned": {"a": 9, "b": 9, "c": 1}},
        ]
    ),
)  # fmt: skip
def test_a_further_problem_never_leads_to_a_release(cases, problem):
    evidence = Evidence(cases, planned_for(cases))
    before, after = decide(evidence), decide(replace(evidence, **problem))
    assert after.word != RELEASE
    assert before.word != REFUSE or after.word == REFUSE


@given(SEVERAL)
def test_what_is_released_is_proven(cases):
    decision = decide(Evidence(cases, planned_for(cases)))
    judged = [c.verdict for c in cases if not c.is_accepted]
    if decision.word == RELEASE:
        assert all(v.outcome == "passed" for v in judged if v.tier == CRITICAL)
        assert not any(v.outcome == "failed" for v in judged if v.tier == SUPPORTING)
        assert all(d.word == RELEASE for d in decision.candidates.values())
        for name in decision.candidates:
            assert any(v.candidate == name and v.tier == CRITICAL for v in judged)
    if any(d.word == REFUSE for d in decision.candidates.values()):
        assert decision.word == REFUSE
    assert "\n" not in str(decision)


def test_a_problem_is_named_beside_what_speaks_against_a_release():
    crash = "worker 'gw0' crashed"
    assert str(decided(PROVEN, problems=[crash])) == f"cannot tell: {crash}"
    assert str(decided(case("refuted"), problems=[crash])) == (
        f"do not release: m (accuracy fails); {crash}"
    )


def test_an_uncompressed_candidate_is_not_released_and_the_others_are():
    decision = decided(PROVEN, case(metric="flips", name="copy"), unchanged={"copy": "it is one"})
    assert str(decision) == "cannot tell: it is one"
    assert {name: d.word for name, d in decision.candidates.items()} == {
        "m": RELEASE, "copy": UNDECIDED,
    }  # fmt: skip


def test_the_sentence_of_a_release():
    known = case("refuted", known=True, metric="perplexity_drift")
    assert str(decided(PROVEN)) == "release: 1 critical gate is proven to hold"
    assert str(decided(PROVEN, case(), known, case("met", SUPPORTING))) == (
        "release: all 2 critical gates are proven to hold, and no supporting gate is refuted; "
        "1 known failure is accepted by the profile"
    )
    assert "; 1 gate that is not critical was not judged: accuracy of m" in str(
        decided(PROVEN, case("not judged", SUPPORTING))
    )
    assert "; 1 advisory limit is broken: accuracy of m" in str(
        decided(PROVEN, case("refuted", ADVISORY))
    )


def test_a_failure_names_the_candidates_and_what_is_unknown_about_the_others():
    decision = decided(
        case("refuted", name="a"), case(name="b"), case("met", name="c"), case("error", name="d")
    )
    assert str(decision) == (
        "do not release: 2 of 4 candidates fail: d (it could not be measured), a (accuracy fails); "
        "nothing can be told about c"
    )
    assert decision.candidates["b"].word == RELEASE
    assert str(decided(case("refuted"))) == "do not release: m (accuracy fails)"


def measured(value, half, limit=LIMIT, name="m", metric="accuracy_drop", tier=CRITICAL):
    """A case with a value and the half width of its interval."""
    estimate = Estimate(value, value - half, value + half, 1000, 1000)
    judged = verdict_of(name, Gate(metric, limit, tier=tier), MetricResult(estimate, 1.0, 1.0))
    return CaseOutcome(judged, judged.holds(DEFAULT))


@given(st.permutations(range(5)))
def test_the_clearest_failures_are_named_first(order):
    cases = [
        measured(0.9, 0.9, metric="f1_drop"),  # only its estimate breaks the limit
        measured(0.50, 0.47),  # just refuted
        measured(0.06, 0.02, metric="flips"),
        measured(0.7, 0.01, limit=0.9, metric="speedup"),  # a lower limit; the p-value underflows
        measured(0.4, 0.001, metric="rouge1_drop"),  # so does this one, with a larger distance
    ]
    text = str(decided(*(cases[index] for index in order)))
    assert text == "do not release: m (ROUGE-1, speed, flips and 2 more fail)"


@given(st.permutations(range(4)))
def test_candidates_are_named_by_their_clearest_failure(order):
    cases = [
        measured(0.05, 0.029, name="a"), measured(0.05, 0.01, name="b"),
        measured(math.nan, math.nan, name="c"), measured(0.9, 0.001, name="d", tier=ADVISORY),
    ]  # fmt: skip
    names = dict.fromkeys("abcd", 1)
    decision = decided(*(cases[index] for index in order), planned=names)
    assert str(decision).startswith(
        "do not release: 3 of 4 candidates fail: c (accuracy fails), b (accuracy fails), "
        "a (accuracy fails); nothing can be told about d"
    )
    assert list(decision.candidates) == list("abcd")


def test_inconclusive_gates_are_named_by_their_evidence():
    cases = [measured(0.019 - 0.004 * i, 0.02, name=f"m{i}") for i in (1, 3, 0, 2)]
    reason = decided(*cases).reason
    assert [reason.index(f"m{i} (") for i in range(3)] == sorted(
        reason.index(f"m{i} (") for i in range(3)
    )
    assert reason.endswith("and 1 more")


def test_what_is_missing_is_named_with_the_number_of_items():
    # The half width of 1.5 points has to shrink to the distance of 0.5 points, which takes 9 times
    # the items, and (1.96 + 0.84)^2 / 1.96^2 as many for a power of 80 %.
    met = replace(case("met").verdict, needed=18_382)
    assert str(decided(PROVEN, CaseOutcome(met, True))) == (
        "cannot tell: 1 gate is inconclusive: accuracy of m "
        "(about 18,382 items (now 1,000) would settle it, assuming a true value of -1.50 pt)"
    )
    unreliable = replace(case("met").verdict, unreliable="there are too few documents")
    assert "(there are too few documents)" in str(decided(PROVEN, CaseOutcome(unreliable, True)))
    assert str(decided(PROVEN, case("not judged"))) == (
        "cannot tell: 1 gate is not judged: accuracy of m (there is no kernel)"
    )
    assert str(decided(PROVEN, case(), planned={"m": 178})).startswith(
        "cannot tell: only 2 of 178 gates were run"
    )
    controls = decided(PROVEN, checks=60, checks_run=3)
    assert str(controls) == "cannot tell: only 3 of 60 controls were run"


def test_a_candidate_without_a_gate_on_quality_is_not_released():
    size = case(metric="artifact_differences", limit=0.0)
    zero = replace(size.verdict, value=0.0, low=0.0, high=0.0, outcome="passed", met=True)
    alone = CaseOutcome(zero, True)
    unproven = "cannot tell: m: no critical gate on quality is proven to hold"
    assert str(decided(alone)) == unproven
    assert decided(alone, case("proven", SUPPORTING)).word == UNDECIDED
    assert decided(alone, PROVEN).word == RELEASE
    assert decide(Evidence([], {})).word == UNDECIDED
    # A known failure is accepted, but it proves nothing.
    known = case("refuted", known=True)
    accepted = f"{unproven}; 1 known failure is accepted by the profile"
    assert str(decided(known)) == str(decided(known, alone)) == accepted
    assert decided(known, PROVEN).word == RELEASE


def gain(metric, value, half, limit, tier=CRITICAL):
    estimate = Estimate(value, value - half, value + half, 1000, 1000)
    judged = verdict_of("m", Gate(metric, limit, tier=tier), MetricResult(estimate, 1.0, 1.0))
    return CaseOutcome(judged, True)


@pytest.mark.parametrize(
    ("metric", "value", "half", "limit", "flagged"),
    [
        ("accuracy_drop", -0.04, 0.01, 0.02, True),
        ("accuracy_drop", -0.04, 0.03, 0.02, False),  # not proven to be more than 2 points
        ("accuracy_drop", -0.015, 0.001, 0.02, False),  # less than the limit
        ("perplexity_drift", -0.08, 0.01, 0.05, True),
        ("perplexity_drift", -0.04, 0.001, 0.05, False),
        ("repetition_rise", -0.3, 0.01, 0.1, False),  # a baseline that repeats itself can improve
        ("accuracy_drop", -0.04, 0.01, 0.0, False),  # a limit of 0 gives no scale
        ("js_divergence", 0.0, 0.0, 0.01, False),
        ("compression_ratio", 4.0, 0.0, 0.99, False),
        ("speedup", 4.0, 0.1, 0.8, False),
        ("naive_reference", 0.1, 0.01, 1.0, False),
    ],
)
def test_an_implausible_gain_prevents_a_release(metric, value, half, limit, flagged):
    one = gain(metric, value, half, limit)
    assert one.verdict.is_implausible_gain == flagged
    decision = decided(PROVEN, one)
    assert decision.word == (UNDECIDED if flagged else RELEASE)
    assert ("implausible gain: " in str(decision)) == flagged
    unsure = replace(one.verdict, unreliable="there are too few documents", outcome="inconclusive")
    assert not unsure.is_implausible_gain


def test_an_implausible_gain_of_an_advisory_gate_is_shown_and_ignored():
    values = "accuracy_drop", -0.04, 0.01, 0.02
    advisory = gain(*values, tier=ADVISORY)
    assert advisory.verdict.is_implausible_gain
    assert str(decided(PROVEN, advisory)) == "release: 1 critical gate is proven to hold"
    assert decided(PROVEN, gain(*values, tier=SUPPORTING)).word == UNDECIDED


def test_the_sentence_of_an_implausible_gain():
    assert str(decided(PROVEN, gain("accuracy_drop", -0.04, 0.01, 0.02))).startswith(
        "cannot tell: implausible gain: accuracy of m changes by +4.00 pt with a limit of -2.00 pt;"
        " check whether items of the test are in the calibration or training data"
    )


def test_every_metric_on_quality_that_can_improve_is_covered():
    """A gain is a negative value of a cost, so no metric on quality may be a gain itself."""
    shipped = [m for m in METRICS.values() if isinstance(m, Metric) and m.quality]
    assert all(metric.at_most for metric in shipped)


@pytest.mark.parametrize(("clusters", "word"), [(100, RELEASE), (1, UNDECIDED)])
def test_a_supporting_gate_on_a_largest_value_that_keeps_its_limit_does_not_block(clusters, word):
    largest = replace(sample_maximum([0.1, 0.2, 0.3], [0, 1, 2]), clusters=clusters)
    gate = Gate("kl_max", 0.5, tier=SUPPORTING)
    kept = verdict_of("m", gate, MetricResult(largest, 0.0, 0.3))
    assert kept.outcome == INCONCLUSIVE
    cases = [case(), CaseOutcome(kept, kept.holds(DEFAULT))]
    assert decide(Evidence(cases, {"m": 2})).word == word
