"""Reading a metric of a pair: its function computes the same two sides once."""

from dataclasses import dataclass, replace

from compression_gates.evals.data.items import DataSet, Text
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.result import Scored, not_judged
from compression_gates.evals.metrics.units import PERCENT
from compression_gates.evals.store.measurement import Measurement


@dataclass(frozen=True)
class Side:
    """One side of a pair, with a single data set."""

    scored: Scored | None

    def get(self, role: str) -> Scored | None:
        return self.scored


@dataclass(frozen=True)
class Sides:
    baseline: Side
    candidate: Side


def side() -> Side:
    return Side(Scored(DataSet("d", (Text("t", 0),)), Measurement({}, {})))


def counting(calls: list) -> Metric:
    """A metric of texts that lists the sides it is called with."""

    def function(baseline, candidate):
        calls.append((baseline, candidate))
        return not_judged(f"call {len(calls)}")

    return Metric("counted", "counted", "{limit}", PERCENT, function, scored="text")


def test_the_same_sides_are_computed_once():
    calls = []
    metric, pair = counting(calls), Sides(side(), side())
    again = replace(pair, candidate=Side(pair.candidate.scored))
    assert metric.read(pair) is metric.read(again)
    assert calls == [(pair.baseline.scored, pair.candidate.scored)]


def test_another_baseline_candidate_or_function_is_computed():
    calls = []
    metric, pair = counting(calls), Sides(side(), side())
    pairs = [pair, replace(pair, baseline=side()), replace(pair, candidate=side())]
    assert [metric.read(x).not_judged for x in pairs] == ["call 1", "call 2", "call 3"]
    assert metric.read(replace(pair, candidate=Side(None))).not_judged == "call 4"
    assert replace(metric, function=lambda *_: not_judged("other")).read(pair).not_judged == "other"
