"""Which measurements are made and which are read from the store."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from compression_gates.evals.bench import Bench
from compression_gates.evals.data.items import DataSet, Prompt, ProtocolOverrides, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.registry import METRICS
from compression_gates.evals.models.cache import Models
from compression_gates.evals.models.device import cores, cpu_model
from compression_gates.evals.noise import ATTENTION, BATCH, DTYPE, NOISE_BATCH, SOURCES
from compression_gates.evals.scores import Pair
from compression_gates.evals.statistics.sequential import repeat_until_decided
from compression_gates.evals.store.measurement import Measurement
from compression_gates.evals.store.store import Store
from compression_gates.fixtures.suite.own_formats import OWN_FORMATS
from compression_gates.fixtures.world import corpus

TEXTS = DataSet("texts", tuple(Text(corpus.passage("held-out", i).text[:200], i) for i in range(3)))
SHORT = ProtocolOverrides(max_new_tokens=2)
PROMPTS = DataSet("prompts", (Prompt("Question: Where?", "there", 0),), SHORT)
TASKS = {"text": TEXTS, "answers": PROMPTS}


def stored(path) -> list[str]:
    return sorted(file.name for file in (path / "measurements").glob("*.npz"))


def test_key_excludes_workers_and_batch_size(causal_checkpoint, tmp_path):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    first = Bench(Store(tmp_path), workers=1)
    scores = first.scores(two, TASKS, one)
    frozen = Store(tmp_path, frozen=True)
    again = Bench(frozen, workers=2, batch_tokens=77).scores(two, TASKS, one)
    assert again["text"].measurement.origin == scores["text"].measurement.origin
    assert first.environment() == Bench(frozen, workers=9).environment()


def test_noise_is_measured_with_another_batch_size(causal_checkpoint, tmp_path):
    one = causal_checkpoint("one")
    bench = Bench(Store(tmp_path))
    bench.scores(one, TASKS)
    before = stored(tmp_path)
    plain, noisy = bench.noise(one, TASKS)
    assert len(stored(tmp_path)) == len(before) + 2  # one each for texts and prompts
    assert noisy["text"].measurement.origin["batch_tokens"] == NOISE_BATCH
    np.testing.assert_allclose(plain["text"]["nll"], noisy["text"]["nll"], rtol=1e-4)
    assert noisy["text"]["js"].max() < 1e-5


@pytest.mark.parametrize("source", [DTYPE, ATTENTION])
def test_noise_is_measured_in_another_dtype_and_with_another_attention(
    causal_checkpoint, tmp_path, source
):
    """Only the second scoring is computed in another way, and it is kept like any measurement."""
    one = causal_checkpoint("one")
    bench = Bench(Store(tmp_path))
    plain, noisy = bench.noise(one, TASKS, source)
    assert not np.array_equal(plain["text"]["nll"], noisy["text"]["nll"])
    # A rounding to bfloat16 changes a number by up to 2^-9, and several follow each other.
    rounding = 2.0**-6 if source == DTYPE else 1e-5
    np.testing.assert_allclose(plain["text"]["nll"], noisy["text"]["nll"], rtol=rounding)
    assert 0 < noisy["text"]["js"].max() < rounding
    usual = bench.models.load(one).model
    assert (usual.dtype, usual.config._attn_implementation) == (torch.float32, "sdpa")
    origin = noisy["text"].measurement.origin
    expected = {DTYPE: ("computed_in", "bfloat16"), ATTENTION: ("attention", "eager")}[source]
    assert origin[expected[0]] == expected[1]
    assert expected[0] not in plain["text"].measurement.origin
    frozen = Bench(Store(tmp_path, frozen=True)).noise(one, TASKS, source)
    assert np.array_equal(frozen[1]["text"]["nll"], noisy["text"]["nll"])
    # A metric accepts the pair.
    assert METRICS["perplexity_drift"].read(Pair(plain, noisy)).estimate.value != 0
    batch = bench.noise(one, TASKS, BATCH)[1]["text"].measurement.origin
    assert batch != origin


def test_a_model_without_another_dtype_or_attention_has_no_noise(causal_checkpoint, tmp_path):
    one, bench = causal_checkpoint("one"), Bench(Store(tmp_path))
    with pytest.raises(EvalError, match="it is computed in float64"):
        bench.noise(replace(one, dtype="float64"), TASKS, DTYPE)
    with pytest.raises(EvalError, match="its configuration names no dtype"):
        bench.noise(replace(one, dtype=""), TASKS, DTYPE)
    with pytest.raises(EvalError, match="its weights are stored as packed"):
        bench.noise(replace(one, form="packed"), TASKS, DTYPE)
    model = bench.models.load(one).model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "set_attn_implementation", lambda name: None)
        with pytest.raises(EvalError, match="no other attention implementation than sdpa"):
            bench.noise(one, TASKS, ATTENTION)
    assert set(SOURCES) == {BATCH, DTYPE, ATTENTION}


class Timer:
    """Replaces ``time_pairs``: returns timings with the given ratios, and counts its calls."""

    def __init__(self, *ratios: float):
        self.ratios, self.calls, self.threads = ratios, 0, 0

    def __call__(self, baseline, candidate, data, protocol, limits):
        self.calls += 1
        self.threads = torch.get_num_threads()
        seconds = repeat_until_decided(
            lambda n: np.stack((np.resize(self.ratios, n), np.ones(n)), axis=1),
            limits, protocol.budget, protocol.looks,
        )  # fmt: skip
        return {"seconds": seconds, "single": seconds}


@pytest.fixture
def time_pair(causal_checkpoint, tmp_path, monkeypatch):
    """``time_pair(*ratios, limits)``: ask a new bench for a timing; return how many were made."""
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)

    def run(*ratios, limits=(0.8,), workers=1, **options):
        timer = Timer(*ratios)
        monkeypatch.setattr("compression_gates.evals.scoring.speed.time_pairs", timer)
        bench = Bench(Store(tmp_path / "store"), workers=workers)
        run.measurement = bench.time_pair(one, two, TEXTS, limits, **options)
        run.threads = timer.threads
        return timer.calls

    return run


def test_passing_timing_is_kept(time_pair):
    assert [time_pair(1.0), time_pair(1.0), time_pair(0.5)] == [1, 0, 0]
    assert time_pair.measurement["seconds"].shape == (8, 2)


def test_failing_timing_is_repeated(time_pair):
    assert [time_pair(0.6), time_pair(0.6), time_pair(1.0), time_pair(0.6)] == [1, 1, 1, 0]


def test_undecided_timing_is_repeated(time_pair):
    assert [time_pair(0.79, 0.81, keep_failed=True) for _ in range(2)] == [1, 1]
    assert len(time_pair.measurement["seconds"]) == 240
    assert [time_pair(1.0), time_pair(1.0)] == [1, 0]


def test_failing_timing_is_kept_with_keep_failed(time_pair):
    assert [time_pair(0.6, keep_failed=True), time_pair(0.6, keep_failed=True)] == [1, 0]


def test_timing_is_specific_to_its_limits(time_pair):
    assert [time_pair(1.0), time_pair(1.0, limits=(0.9,))] == [1, 1]
    assert [time_pair(1.0, limits=(0.8, 0.9)), time_pair(1.0, limits=(0.9, 0.8))] == [1, 0]


def test_timing_uses_all_cores_for_any_number_of_workers(time_pair):
    before = torch.get_num_threads()
    try:
        assert time_pair(1.0, workers=64) == 1
        assert time_pair.threads == cores()
        assert time_pair(1.0, workers=1) == 0
    finally:
        torch.set_num_threads(before)


def test_key_of_timing_has_the_processor_but_not_the_host(time_pair, monkeypatch):
    time_pair(1.0)
    origin = json.loads(json.dumps(time_pair.measurement.origin))
    assert origin["machine"] == [cpu_model(), cores()]
    monkeypatch.setattr("platform.node", lambda: "another")
    assert time_pair(1.0) == 0
    monkeypatch.setattr("compression_gates.evals.models.device.cpu_model", lambda: "Another CPU")
    assert time_pair(1.0) == 1


def damage(path, edit) -> None:
    content = bytearray(path.read_bytes())
    edit(content)
    path.write_bytes(content)


def flip(content: bytearray) -> None:
    content[len(content) // 2] ^= 1 << 6


def zero_tail(content: bytearray) -> None:
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)


def cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


@pytest.mark.parametrize(
    ("edit", "together"),
    [
        (flip, True), (zero_tail, False), (cut, True),
        *(pytest.param(*case, marks=pytest.mark.full)
          for case in ((flip, False), (zero_tail, True), (cut, False))),
    ],
)  # fmt: skip
def test_damaged_table_is_replaced(causal_checkpoint, tmp_path, monkeypatch, edit, together):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    tasks = {"text": TEXTS}
    expected = Bench(Store(tmp_path / "whole")).scores(two, tasks, one)["text"]
    store = Store(tmp_path / "store")
    Bench(store).scores(one, tasks)
    (table,) = store.root.glob("measurements/*.predictions.npy")
    damage(table, edit)
    monkeypatch.setattr(Models, "fit_together", lambda *both: together)
    scored = Bench(store).scores(two, tasks, one)["text"]
    for name in ("js", "nll", "agree", "kl_forward"):
        assert np.array_equal(scored[name], expected[name])
    assert [note.partition(":")[0] for note in store.notes] == [f"measurements/{table.name}"]
    assert table.exists()  # for the next candidate


@pytest.mark.parametrize("edit", [flip, cut, None])
def test_damaged_head_is_replaced(causal_checkpoint, tmp_path, edit):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    tasks = {"text": TEXTS}
    expected = Bench(Store(tmp_path / "whole")).scores(two, tasks, one)["text"]
    store = Store(tmp_path / "store")
    Bench(store).scores(one, tasks)
    (head,) = store.root.glob("measurements/*.head.npy")
    whole = head.read_bytes()
    if edit is None:
        head.unlink()
    else:
        damage(head, edit)
    scored = Bench(store).scores(two, tasks, one)["text"]
    assert np.array_equal(scored["js"], expected["js"])
    assert len(store.notes) == 1
    assert head.read_bytes() == whole


def test_table_that_another_worker_replaced_is_not_discarded(
    causal_checkpoint, tmp_path, monkeypatch
):
    """Another worker replaces the damaged table before this one gets the lock."""
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    tasks, store = {"text": TEXTS}, Store(tmp_path)
    Bench(store).scores(one, tasks)
    (table,) = store.root.glob("measurements/*.predictions.npy")
    whole = tmp_path / "whole"
    whole.write_bytes(table.read_bytes())
    damage(table, flip)
    original = store.locked

    def locked_by_another_before(name):
        if name == table.name and whole.exists():
            whole.replace(table)
        return original(name)

    monkeypatch.setattr(store, "locked", locked_by_another_before)
    scored = []
    monkeypatch.setattr(Bench, "_write_predictions", lambda *args: scored.append(args))
    assert np.isfinite(Bench(store).scores(two, tasks, one)["text"]["js"]).all()
    assert table.exists()
    assert not store.notes
    assert not scored


@pytest.mark.parametrize("name", ["nll", "finite", "comparison", "parameters"])
def test_forged_entries_are_replaced(causal_checkpoint, tmp_path, name):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    store = Store(tmp_path)

    def numbers(store):
        bench = Bench(store)
        comparison = bench.compare(one, two, TASKS).to_json()
        scores = bench.scores(two, TASKS, one)
        parts = [scores["text"].measurement, scores["answers"].measurement, scores.weights]
        return [{k: a.tolist() for k, a in part.arrays.items()} for part in parts], comparison

    expected = numbers(store)
    forged = 0
    for file in tmp_path.glob("measurements/*.npz"):
        measurement = Measurement.read(file)
        if name in measurement.arrays:
            forged += 1
            arrays = {**measurement.arrays, name: np.array([[3]])}
            Measurement(arrays, measurement.origin).write(file)
    assert numbers(store) == expected
    assert forged == len(store.notes) > 0
    assert all(name in note for note in store.notes)


def test_key_of_comparison_has_the_custom_format(causal_checkpoint, tmp_path):
    one = causal_checkpoint("one")
    custom = replace(one, form="compression-gates")
    Bench(Store(tmp_path), formats=OWN_FORMATS).compare(one, custom, TASKS)
    (file,) = tmp_path.glob("measurements/*.npz")
    assert "compression-gates" in Measurement.read(file).origin["packages"]
