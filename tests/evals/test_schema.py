"""What each scorer gives fits its schema; forged arrays do not."""

import numpy as np
import pytest

from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.store.schema import BESIDE_BASELINE, SCHEMAS, check
from compression_gates.evals.tasks import TASKS

TEXT = {"protocol": {"task": "text"}, "reference": None}
BESIDE = {"protocol": {"task": "text"}, "reference": {"model": "m"}}


def text_arrays() -> dict[str, np.ndarray]:
    return {
        "tokens": np.array([3, 4, 5]),
        "window": np.array([0, 0, 1]),
        "cluster": np.array([0, 0, 1]),
        "window_item": np.array([0, 1]),
        "window_text": np.array(["a", "b"]),
        "units": np.array([2, 9]),
        "windowing": np.array([16, 16]),
        "vocabulary": np.array(8),
        "longest": np.array(5),
        "nll": np.array([1, np.nan, np.inf], np.float32),
    }


def beside_arrays() -> dict[str, np.ndarray]:
    js = np.array([0, 0.5, np.nan])
    return {
        **text_arrays(), "js": js, "kl_forward": js, "kl_backward": np.array([0, np.inf, 1]),
        "agree": np.array([True, False, True]),
    }  # fmt: skip


def test_what_a_scorer_gives_fits():
    check(text_arrays(), TEXT, 2)
    check(beside_arrays(), BESIDE, 2)


@pytest.mark.parametrize(
    ("name", "forged"),
    [
        ("tokens", np.array([3, 4])),
        ("tokens", np.array([3, 4, -5])),
        ("tokens", np.array([3.0, 4.0, 5.0])),
        ("window", np.array([0, 0, 2])),
        ("window", np.array([[0, 0, 1]])),
        ("window_item", np.array([0, 2])),
        ("window_text", np.array([0, 1])),
        ("window_text", np.array([b"a", b"b"])),
        ("units", np.array([2])),
        ("windowing", np.array([0, 16])),
        ("vocabulary", np.array([8])),
        ("vocabulary", np.array(0)),
        ("nll", np.array([1, 2, -3.0])),
        ("nll", np.array([1, 2, 3])),
        ("nll", np.array([None, None, None])),
        ("nll", np.array([1, 2, 3], complex)),
        ("js", np.array([0, 0.5, 0.8])),
        ("js", np.array([0, 0.5, -0.1])),
        ("kl_forward", np.array(0.5)),
        ("agree", np.array([1, 0, 1])),
        ("another", np.zeros(3)),
    ],
)
def test_forged_arrays_of_a_text_do_not_fit(name, forged):
    # The first array of two lengths that disagree may be the other one.
    with pytest.raises(ValueError, match=r"has shape|has dtype|out of range|unknown"):
        check({**beside_arrays(), name: forged}, BESIDE, 2)


@pytest.mark.parametrize("name", list(beside_arrays()))
def test_no_array_may_be_missing(name):
    arrays = beside_arrays()
    del arrays[name]
    with pytest.raises(ValueError, match=f"{name} is missing"):
        check(arrays, BESIDE, 2)


def test_divergences_without_a_baseline_are_forged():
    with pytest.raises(ValueError, match="unknown"):
        check(beside_arrays(), TEXT, 2)


def test_a_time_is_a_finite_number_above_zero():
    origin = {"protocol": {"task": "speed"}}
    check({"seconds": np.ones((3, 2))}, origin)
    for forged in (np.ones((3, 3)), np.ones(3), np.zeros((3, 2)), np.full((3, 2), np.nan),
                   np.full((3, 2), np.inf), np.ones((3, 2), int)):  # fmt: skip
        with pytest.raises(ValueError, match="seconds"):
            check({"seconds": forged}, origin)


def test_items_are_those_of_the_data_set():
    origin = {"protocol": {"task": "generation"}}
    arrays = {"continuations": np.array(["a", "b"]), "finite": np.ones(2, bool)}
    check(arrays, origin, 2)
    with pytest.raises(ValueError, match="shape"):
        check(arrays, origin, 3)


def test_a_comparison_is_read():
    origin = {"protocol": {"task": "compare"}}
    found = CheckpointComparison((Finding("tokens", "they differ"),), ("tokens",), {"x": "why"})
    assert CheckpointComparison.from_json(found.to_json()) == found
    check({"comparison": np.array(found.to_json())}, origin)
    for forged in ("", "[]", "{}", "1", '"', "[" * 100_000, found.to_json().replace("tokens", "x"),
                   '{"findings": 3, "compared": [], "not_compared": {}}',
                   '{"findings": [], "compared": [], "not_compared": []}'):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011 - json's own among them
            check({"comparison": np.array(forged)}, origin)


def test_every_task_has_a_schema(causal_checkpoint):
    assert set(BESIDE_BASELINE) < set(SCHEMAS)
    for tasks in TASKS.values():
        for task in tasks.values():
            assert task.protocol().describe()["task"] in SCHEMAS


def test_the_experts_of_a_mixture_may_be_counted():
    check(text_arrays() | {"experts": np.zeros((2, 4), int)}, TEXT, 2)
    for forged in (np.array([[1, -1]]), np.array([1, 2]), np.array([["a"]])):
        with pytest.raises(ValueError, match="experts"):
            check(text_arrays() | {"experts": forged}, TEXT, 2)
