"""What got worse since yesterday, beyond noise."""

import math

import numpy as np
import pytest
from scipy import stats

from evals.errors import EvalError
from evals.gate import Gate, judge
from evals.nightly import compared, read_earlier
from evals.reading import Reading
from evals.report import Entry, json_lines
from evals.statistics import clustered_mean


def verdict(metric="js_divergence", value=0.1, spread=0.01, name="model-wanda-50", n=200):
    values = value + spread * np.sqrt(n) * stats.norm.ppf((np.arange(n) + 0.5) / n)
    return judge(name, Gate(metric, 1.0), Reading(clustered_mean(values, np.arange(n)), 0.0, 0.0))


def earlier(*verdicts, folder):
    entries = [Entry("model", "wanda-50", v, True) for v in verdicts]
    (folder / "report.jsonl").write_text(json_lines(entries))
    return read_earlier(folder)


def test_nothing_changed(tmp_path):
    one = verdict()
    (found,) = compared([one], earlier(one, folder=tmp_path))
    assert (found.before, found.after, found.p, found.worse) == (one.value, one.value, 1.0, False)


@pytest.mark.parametrize(("metric", "sign"), [("js_divergence", 1), ("speedup", -1)])
def test_the_p_value_is_that_of_two_independent_runs(tmp_path, metric, sign):
    before, after = verdict(metric, 0.5), verdict(metric, 0.5 + sign * 0.03)
    (found,) = compared([after], earlier(before, folder=tmp_path))
    expected = stats.norm.sf(0.03 / math.hypot(0.01, 0.01))
    assert found.p == pytest.approx(expected, rel=0.05)
    (back,) = compared([before], earlier(after, folder=tmp_path))
    assert back.p == 1.0


def test_only_what_stands_out_among_all_is_told(tmp_path):
    names = [f"model-{i}" for i in range(100)]
    before = earlier(*(verdict(name=name) for name in names), folder=tmp_path)
    # One in a hundred moves by what chance brings about once in a hundred times.
    chance = [verdict(name=name, value=0.1 + 0.033 * (name == "model-7")) for name in names]
    assert not any(change.worse for change in compared(chance, before))
    broken = [verdict(name=name, value=0.1 + 0.1 * (name == "model-7")) for name in names]
    found = compared(broken, before)
    assert [change.candidate for change in found if change.worse] == ["model-7"]
    assert found[0].candidate == "model-7"
    assert str(found[0]) == "model-7 js_divergence 0.1000 nats -> 0.2000 nats"


def test_a_number_that_is_none_any_more_is_worse(tmp_path):
    good, bad = verdict(), verdict(value=math.nan)
    (found,) = compared([bad], earlier(good, folder=tmp_path))
    assert found.worse
    (found,) = compared([good], earlier(bad, folder=tmp_path))
    assert not found.worse


def test_what_was_counted_and_not_sampled_has_no_noise(tmp_path):
    before, after = verdict("compression_ratio", 3.0, 0.0), verdict("compression_ratio", 2.9, 0.0)
    (found,) = compared([after], earlier(before, folder=tmp_path))
    assert found.worse


def test_gates_that_one_run_has_not_are_left_out(tmp_path):
    assert compared([verdict(name="new")], earlier(verdict(), folder=tmp_path)) == []


@pytest.mark.parametrize("text", ["", "nonsense\n", "[1]\n", '{"verdict": {"a": 1}}\n'])
def test_what_is_no_report(tmp_path, text):
    with pytest.raises(EvalError, match=r"report.jsonl"):
        read_earlier(tmp_path)
    (tmp_path / "report.jsonl").write_text(text)
    with pytest.raises(EvalError, match=r"report.jsonl: (line 1 is )?no verdict"):
        read_earlier(tmp_path)
