"""Families against statsmodels, and against what they promise."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from statsmodels.stats.multitest import multipletests

from evals.families import BENJAMINI_HOCHBERG, HOLM, alarms

P_VALUES = st.lists(st.floats(0, 1) | st.floats(0, 0.01), min_size=1, max_size=30)


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
