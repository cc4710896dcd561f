"""What is measured again, and what is read from the store."""

import json

import numpy as np
import pytest
import torch

from evals.bench import NOISE_BATCH, Bench, Tasks
from evals.data import DataSet, Prompt, Text
from evals.device import cores, cpu_model
from evals.sequential import repeat_until_decided
from evals.store import Store
from fixtures import corpus

TEXTS = DataSet("texts", tuple(Text(corpus.passage("held-out", i).text[:200], i) for i in range(3)))
PROMPTS = DataSet("prompts", (Prompt("Question: Where?", "there", 0),), {"max_new_tokens": 2})
TASKS = Tasks(text=TEXTS, answers=PROMPTS)


def stored(path) -> list[str]:
    return sorted(file.name for file in (path / "measurements").glob("*.npz"))


def test_neither_workers_nor_batches_are_in_a_key(causal_checkpoint, tmp_path):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    first = Bench(Store(tmp_path), workers=1)
    scores = first.scores(two, TASKS, one)
    frozen = Store(tmp_path, frozen=True)
    again = Bench(frozen, workers=2, batch_tokens=77).scores(two, TASKS, one)
    assert again.text.measurement.origin == scores.text.measurement.origin
    assert first.environment() == Bench(frozen, workers=9).environment()


def test_noise_is_measured_in_other_batches_and_is_comparable(causal_checkpoint, tmp_path):
    one = causal_checkpoint("one")
    bench = Bench(Store(tmp_path))
    bench.scores(one, TASKS)
    before = stored(tmp_path)
    plain, noisy = bench.noise(one, TASKS)
    assert len(stored(tmp_path)) == len(before) + 2  # texts and prompts, once more
    assert noisy.text.measurement.origin["batch_tokens"] == NOISE_BATCH
    np.testing.assert_allclose(plain.text["nll"], noisy.text["nll"], rtol=1e-4)
    assert noisy.text["js"].max() < 1e-5


class Timer:
    """Stands in for timing: sides whose ratios are known, and how often they were timed."""

    def __init__(self, *ratios: float):
        self.ratios, self.calls, self.threads = ratios, 0, 0

    def __call__(self, baseline, candidate, data, protocol, limits):
        self.calls += 1
        self.threads = torch.get_num_threads()
        seconds = repeat_until_decided(
            lambda n: np.stack((np.resize(self.ratios, n), np.ones(n)), axis=1),
            limits, protocol.budget, protocol.looks,
        )  # fmt: skip
        return {"seconds": seconds}


@pytest.fixture
def race(causal_checkpoint, tmp_path, monkeypatch):
    """``race(ratio, limits)``: a new process times two models; how often it had to."""
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)

    def run(*ratios, limits=(0.8,), workers=1, **options):
        timer = Timer(*ratios)
        monkeypatch.setattr("evals.scoring.speed.time_pairs", timer)
        bench = Bench(Store(tmp_path / "store"), workers=workers)
        run.found = bench.race(one, two, TEXTS, limits, **options)
        run.threads = timer.threads
        return timer.calls

    return run


def test_a_timing_that_passed_is_kept(race):
    assert [race(1.0), race(1.0), race(0.5)] == [1, 0, 0]
    assert race.found["seconds"].shape == (15, 2)


def test_a_timing_that_failed_is_made_again(race):
    assert [race(0.6), race(0.6), race(1.0), race(0.6)] == [1, 1, 1, 0]


def test_a_timing_that_did_not_decide_is_made_again(race):
    assert [race(0.79, 0.81, keep_failed=True) for _ in range(2)] == [1, 1]
    assert len(race.found["seconds"]) == 240
    assert [race(1.0), race(1.0)] == [1, 0]


def test_what_is_meant_to_fail_is_kept_when_it_does(race):
    assert [race(0.6, keep_failed=True), race(0.6, keep_failed=True)] == [1, 0]


def test_a_timing_is_for_the_limits_that_it_decided(race):
    assert [race(1.0), race(1.0, limits=(0.9,))] == [1, 1]
    assert [race(1.0, limits=(0.8, 0.9)), race(1.0, limits=(0.9, 0.8))] == [1, 0]


def test_timing_takes_all_cores_whatever_the_number_of_workers(race):
    before = torch.get_num_threads()
    try:
        assert race(1.0, workers=64) == 1
        assert race.threads == cores()
        assert race(1.0, workers=1) == 0
    finally:
        torch.set_num_threads(before)


def test_a_timing_is_of_a_processor_and_not_of_a_host(race, monkeypatch):
    race(1.0)
    origin = json.loads(json.dumps(race.found.origin))
    assert origin["machine"] == [cpu_model(), cores()]
    monkeypatch.setattr("platform.node", lambda: "another")
    assert race(1.0) == 0
    monkeypatch.setattr("evals.device.cpu_model", lambda: "Another CPU")
    assert race(1.0) == 1
