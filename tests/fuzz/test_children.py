"""What runs the inputs finds those that fail, hang or end their process."""

import os
from random import Random

import pytest

from compression_gates.evals.errors import EvalError
from compression_gates.evals.guard import guarded
from tests.fuzz import children


def nothing():
    """Gives what is called with each input."""
    return lambda rng: None


def hanging_in_a_guard():
    def call(rng: Random) -> None:
        with guarded("it fails", 50):
            while True:
                pass

    return call


def refusing():
    def call(rng: Random) -> None:
        raise EvalError("not this one")

    return call


def ending():
    return lambda rng: os._exit(3)


def failing():
    return lambda rng: {}["key"]


def test_results_are_counted():
    assert children.run_each("name", 0, range(3), nothing) == children.Outcome(3, 3)
    assert children.run_each("name", 0, range(3), refusing) == children.Outcome(3, 0)


def test_a_hang_within_a_guard_is_found(monkeypatch):
    monkeypatch.setattr(children, "SECONDS", 1)
    found = children.run_each("name", 0, range(2), hanging_in_a_guard)
    assert found.failures == ["input 0: did not end within 1 seconds"]


def test_an_input_that_ends_its_process_is_found():
    found = children.run_each("name", 0, [7], ending)
    assert found.failures == ["input 7: ended the process (3)"]


def test_an_error_that_is_no_users_is_found():
    (text,) = children.run_each("name", 0, [7], failing).failures
    assert text.startswith("input 7: Traceback")
    assert "KeyError" in text


def test_damage_that_is_always_refused_fails(each):
    with pytest.raises(AssertionError):
        each(5, refusing, share=0.2)
