"""Arrays of the scorers match their schema, and forged arrays do not."""

import numpy as np
import pytest

from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.store.array_schemas import BESIDE_BASELINE, SCHEMAS, check
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
        "tv": js, "agree": np.array([True, False, True]),
    }  # fmt: skip


def test_arrays_of_a_scorer_are_valid():
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
        ("tv", np.array([0, 0.5, 1.1])),
        ("agree", np.array([1, 0, 1])),
        ("another", np.zeros(3)),
    ],
)
def test_forged_arrays_of_a_text_are_invalid(name, forged):
    # If two lengths disagree, the error can name the other array.
    with pytest.raises(ValueError, match=r"has shape|has dtype|out of range|unknown"):
        check({**beside_arrays(), name: forged}, BESIDE, 2)


@pytest.mark.parametrize("name", list(beside_arrays()))
def test_missing_array_is_an_error(name):
    arrays = beside_arrays()
    del arrays[name]
    with pytest.raises(ValueError, match=f"{name} is missing"):
        check(arrays, BESIDE, 2)


def test_divergences_without_a_baseline_are_invalid():
    with pytest.raises(ValueError, match="unknown"):
        check(beside_arrays(), TEXT, 2)


def test_times_are_finite_and_positive():
    origin, single = {"protocol": {"task": "speed"}}, np.ones((2, 2))
    check({"seconds": np.ones((3, 2)), "single": single}, origin)
    for forged in (np.ones((3, 3)), np.ones(3), np.zeros((3, 2)), np.full((3, 2), np.nan),
                   np.full((3, 2), np.inf), np.ones((3, 2), int)):  # fmt: skip
        with pytest.raises(ValueError, match="seconds"):
            check({"seconds": forged, "single": single}, origin)


def test_number_of_items_is_that_of_the_data_set():
    origin = {"protocol": {"task": "generation"}}
    arrays = {
        "continuations": np.array(["a", "b"]), "tokens": np.array([[5, 2], [6, -1]]),
        **dict.fromkeys(("ended", "empty", "finite"), np.ones(2, bool)),
    }  # fmt: skip
    check(arrays, origin, 2)
    with pytest.raises(ValueError, match="shape"):
        check(arrays, origin, 3)


def test_comparison_is_parsed():
    origin = {"protocol": {"task": "compare"}}
    findings = (Finding("tokens", "they differ"),)
    comparison = CheckpointComparison(findings, ("tokens",), {"x": "why"})
    text = comparison.to_json()
    assert CheckpointComparison.from_json(text) == comparison
    check({"comparison": np.array(text)}, origin)
    for forged in ("", "[]", "{}", "1", '"', "[" * 100_000, text.replace("tokens", "x"),
                   '{"findings": 3, "compared": [], "not_compared": {}}',
                   '{"findings": [], "compared": [], "not_compared": []}'):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011 - json's own among them
            check({"comparison": np.array(forged)}, origin)


def test_every_task_has_a_schema(causal_checkpoint):
    assert set(BESIDE_BASELINE) < set(SCHEMAS)
    for tasks in TASKS.values():
        for task in tasks.values():
            assert task.protocol().describe()["task"] in SCHEMAS


def test_expert_counts_are_valid():
    check(text_arrays() | {"experts": np.zeros((2, 4), int)}, TEXT, 2)
    for forged in (np.array([[1, -1]]), np.array([1, 2]), np.array([["a"]])):
        with pytest.raises(ValueError, match="experts"):
            check(text_arrays() | {"experts": forged}, TEXT, 2)
