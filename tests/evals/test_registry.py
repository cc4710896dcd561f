"""The registry of metrics, and that nothing about a metric can be left out."""

import inspect
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from compression_gates.evals.checkpoints.checkpoint import LOG
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics import registry
from compression_gates.evals.metrics.metric import Metric
from compression_gates.evals.metrics.registry import METRICS, Registry
from compression_gates.evals.metrics.result import not_judged
from compression_gates.evals.metrics.units import PLAIN

GATES = Path(__file__).parents[1] / "gates"


def reading(pair, weights):
    return not_judged("nothing")


def metric(name: str, **fields) -> Metric:
    return Metric(name, name, "at most {limit}", PLAIN, reading, **fields)


def other_reading(pair, weights):
    return not_judged("nothing")


def test_two_metrics_of_one_name_are_refused():
    own = Registry()
    first = own.add(metric("mine"))
    both = rf"two metrics are named mine: {__name__}\.reading and {__name__}\.other_reading"
    with pytest.raises(EvalError, match=both):
        own.add(replace(first, function=other_reading))
    assert own["mine"] is first


@pytest.mark.parametrize("function", [reading, lambda pair, weights: None, partial(reading)])
def test_registering_a_metric_again_replaces_it(function):
    own = Registry()
    first = own.add(replace(metric("mine"), function=function))
    again = own.add(replace(first, title="mine again"))
    assert own["mine"] is again


def test_what_is_no_metric_is_refused():
    with pytest.raises(EvalError, match=r"<function reading at .*> is not a Metric"):
        Registry().add(reading)


def test_a_name_of_a_metric_of_the_package_is_taken():
    with pytest.raises(EvalError, match=r"two metrics are named flips"):
        METRICS.add(replace(METRICS["flips"], title="mine"))


def test_a_metric_without_a_function_is_refused():
    with pytest.raises(TypeError):
        Metric("mine", "mine", "at most {limit}", PLAIN)
    with pytest.raises(TypeError, match="metric mine: None is not callable"):
        Metric("mine", "mine", "at most {limit}", PLAIN, None)


def test_metrics_stand_in_their_order_and_those_without_one_last():
    own = Registry()
    for name, order in (("first", {}), ("second", {}), ("third", {"order": 5})):
        own.add(metric(name, **order))
    assert list(own) == ["third", "first", "second"]


def test_installed_packages_add_metrics_through_an_entry_point(monkeypatch):
    own, loaded = Registry(), []

    def load():
        loaded.append(1)
        return metric("installed")

    entry = SimpleNamespace(name="mine", value="mine:METRIC", load=load)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group else [])
    assert [*own, *own, len(own)] == ["installed", "installed", 1]
    assert loaded == [1]


def test_an_entry_point_that_cannot_be_loaded_is_named(monkeypatch):
    def load():
        raise ImportError("no module mine")

    broken = SimpleNamespace(
        name="mine", value="mine:METRIC", load=load, dist=SimpleNamespace(name="others")
    )
    healthy = SimpleNamespace(name="fine", value="fine:METRIC", load=lambda: metric("fine"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [healthy, broken])
    own = Registry()
    for _ in range(2):
        with pytest.raises(
            EvalError,
            match="entry point mine = mine:METRIC of others: ImportError: no module mine",
        ):
            len(own)
    monkeypatch.setattr(registry, "entry_points", lambda group: [healthy])
    assert list(own) == ["fine"]


def test_an_entry_point_whose_name_is_taken_is_named(monkeypatch):
    entry = SimpleNamespace(
        name="mine", value="mine:METRIC", load=lambda: metric("taken"), dist=None
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    own = Registry()
    own.add(replace(metric("taken"), function=other_reading))
    for _ in range(2):
        with pytest.raises(EvalError, match=r"mine:METRIC of an unknown .*two metrics are named"):
            len(own)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_gate_file_that_reads_it_by_the_registry(name):
    source = (GATES / f"test_{name}.py").read_text()
    assert f"def test_{name}(pair, gate):" in source
    assert source.rstrip().endswith("gate.holds(gate.read(pair))")


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_reads_and_which_data_it_needs(name):
    shown = METRICS[name]
    assert inspect.getdoc(shown.function)
    assert "{limit}" in shown.promise
    assert shown.needs or shown.always_limit is not None
    if shown.lm_eval:
        assert shown.needed_roles(LOG) == ()
    if shown.drop:
        assert name.endswith("_drop")
