"""Families against statsmodels, and against what they promise."""

import gc

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from statsmodels.stats.multitest import multipletests

from compression_gates.evals.gates.families import (
    BENJAMINI_HOCHBERG,
    HOLM,
    alarms,
    family_bound,
    family_summary,
)
from compression_gates.evals.gates.gate import Verdict

P_VALUES = st.lists(st.floats(0, 1) | st.floats(0, 0.01), min_size=1, max_size=30)


@pytest.fixture(scope="module", autouse=True)
def _no_collections():
    """statsmodels collects garbage in every call, which takes long beside other tests' objects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *generation: 0)
        yield


@given(P_VALUES, st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_agrees_with_statsmodels(p_values, rate):
    for method, theirs in ((HOLM, "holm"), (BENJAMINI_HOCHBERG, "fdr_bh")):
        rejected, adjusted, *_ = multipletests(p_values, rate, theirs)
        clear = abs(adjusted - rate) > 1e-12
        assert (alarms(p_values, method, rate) == rejected)[clear].all()


@given(P_VALUES)
def test_benjamini_hochberg_finds_at_least_what_holm_finds(p_values):
    assert (alarms(p_values, BENJAMINI_HOCHBERG) >= alarms(p_values, HOLM)).all()


def test_one_gate_is_its_own_family():
    assert alarms([0.009]).tolist() == [True]
    assert alarms([0.011]).tolist() == [False]


def test_no_number_is_an_alarm_and_changes_no_other():
    assert alarms([np.nan, 0.009, 0.5]).tolist() == [True, False, False]
    assert alarms([0.009, 0.5]).tolist() == [False, False]
    assert alarms([np.nan]).tolist() == [True]


def test_no_gate_raises_no_alarm():
    assert alarms([]).tolist() == []


@pytest.mark.parametrize("method", [HOLM, BENJAMINI_HOCHBERG])
def test_an_unchanged_family_seldom_raises_an_alarm(method):
    generator = np.random.default_rng(0)
    raised = [alarms(generator.random(100), method, 0.05).any() for _ in range(2000)]
    assert np.mean(raised) <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def verdict(name, value=0.0, outcome="passed", p=1.0, n=100, met=True):
    return Verdict(
        candidate=name, metric="flips", limit=0.1, value=value, low=value, high=value,
        confidence=0.95, n=n, clusters=n, baseline=0.0, measured=value, p=p, unreliable="",
        reason="", met=met, outcome=outcome,
    )  # fmt: skip


GOOD = (verdict("good"), True)
BAD = (verdict("bad", 0.5, "failed", 1e-9, met=False), False)
DOUBTFUL = (verdict("doubtful", 0.2, "inconclusive", 0.2, met=False), False)
UNPROVEN = (verdict("unproven", 0.0, "inconclusive"), False)
ERROR = (verdict("error", np.nan, "failed", np.nan, n=0, met=False), False)
UNJUDGED = (verdict("unjudged", np.nan, "not judged", 1.0, n=0, met=False), True)
BY = "(Holm: false alarms in at most 1% of runs)"


@pytest.mark.parametrize(
    ("cases", "line"),
    [
        ([GOOD, GOOD], f"no alarm over 2 gates {BY}"),
        ([GOOD, UNJUDGED], f"no alarm over 1 gate {BY}"),
        ([GOOD, BAD], f"1 failed: bad flips; ALARM {BY}: bad flips"),
        (
            [GOOD, DOUBTFUL],
            f"1 failed: doubtful flips; none stands out among 2 measured gates {BY}",
        ),
        (
            [GOOD, UNPROVEN],
            f"1 not proven: unproven flips; none stands out among 2 measured gates {BY}",
        ),
        ([GOOD, ERROR], f"1 error: error flips; none stands out among 1 measured gate {BY}"),
        (
            [GOOD, (UNJUDGED[0], False)],
            f"1 not judged: unjudged flips; none stands out among 1 measured gate {BY}",
        ),
        ([ERROR], f"1 error: error flips; none stands out among 0 measured gates {BY}"),
        (
            [BAD] * 5,
            f"5 failed: bad flips, bad flips, bad flips and 2 more; "
            f"ALARM {BY}: bad flips, bad flips, bad flips and 2 more",
        ),
        (
            [DOUBTFUL, (verdict("worse", 0.4, "failed", 1e-6, met=False), False), GOOD, BAD],
            f"3 failed: bad flips, worse flips, doubtful flips; ALARM {BY}: bad flips, worse flips",
        ),
    ],
)
def test_what_failed_is_told_as_failed(cases, line):
    assert family_summary(cases) == line


def test_a_measured_number_that_is_none_is_an_alarm():
    broken = verdict("broken", np.nan, "failed", np.nan, met=False)
    assert "ALARM" in family_summary([(broken, False)])


def test_gates_of_one_document_are_counted():
    from dataclasses import replace

    one = (replace(verdict("one"), low=-np.inf, high=np.inf, outcome="inconclusive"), True)
    assert family_summary([GOOD, one]).endswith("; 1 of them rests on one document or none")
    assert "2 of them rest on" in family_summary([GOOD, one, one])


def test_a_largest_value_rests_on_its_documents():
    from dataclasses import replace

    largest = replace(verdict("largest"), low=0.0, high=np.inf, outcome="inconclusive")
    assert family_summary([GOOD, (largest, True)]) == f"no alarm over 2 gates {BY}"
    alone = replace(largest, clusters=1)
    assert family_summary([GOOD, (alone, True)]).endswith(
        "; 1 of them rests on one document or none"
    )


@pytest.mark.parametrize(
    ("method", "period", "text"),
    [
        (HOLM, 1, "Holm: false alarms in at most 1% of runs"),
        (HOLM, 30, "Holm: false alarms in at most 1% of months of 30 nights"),
        (BENJAMINI_HOCHBERG, 1, "Benjamini-Hochberg: at most 1% of them false"),
        (BENJAMINI_HOCHBERG, 30, "Benjamini-Hochberg: at most 0.033% of a night's alarms false"),
    ],
)
def test_what_a_correction_bounds_is_stated_for_its_period(method, period, text):
    assert family_bound(method, period, "night") == text
