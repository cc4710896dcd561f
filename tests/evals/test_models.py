"""The cache keeps at most two models, and only those that fit into memory."""

import gc
import json
import weakref

import numpy as np
import pytest
import torch

from compression_gates.evals.bench import Bench
from compression_gates.evals.data.items import DataSet, Text
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.models import loading
from compression_gates.evals.models.cache import KEPT, Computed, Models
from compression_gates.evals.noise import ATTENTION, BATCH, SOURCES
from compression_gates.evals.store.store import Store
from compression_gates.fixtures.world import corpus

DATA = DataSet("texts", tuple(Text(corpus.passage("held-out", i).text[:300], i) for i in range(3)))


@pytest.fixture
def models(monkeypatch):
    """A cache; ``models.free`` is the free memory in bytes before anything is loaded."""
    made = Models("cpu", "auto", 1, False, ())
    made.free = 1e9
    monkeypatch.setattr(
        Models,
        "_free",
        lambda self: made.free - sum(m.model.get_memory_footprint() for m in self._loaded.values()),
    )
    return made


def size(checkpoint):
    return checkpoint.weight_bytes


def test_a_pair_stays_and_a_third_takes_the_place_of_the_oldest(models, causal_checkpoint):
    one, two, three = (causal_checkpoint(f"m{i}", seed=i) for i in range(3))
    first = models.load(one)
    second = models.load(two)
    assert models.load(one) is first
    models.load(three)
    assert models.load(one) is first
    assert models.load(two) is not second


def test_what_does_not_fit_beside_another_is_loaded_alone(models, causal_checkpoint):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    models.free = 1.8 * size(one)
    first = models.load(one)
    assert not models.fit_together(one, two)
    models.load(two)
    assert len(models._loaded) == 1
    assert models.load(one) is not first
    models.free = 5 * size(one)
    assert models.fit_together(one, two)


def test_a_model_to_change_is_a_copy_unless_it_does_not_fit(models, causal_checkpoint):
    one = causal_checkpoint("one")
    kept = models.load(one).model
    assert models.to_change(one) is not kept
    models.free = 1.5 * size(one)
    assert models.to_change(one) is kept
    assert models.load(one).model is not kept  # loaded again


def test_a_model_that_is_computed_in_another_way_counts_as_another(models, causal_checkpoint):
    one, eager = causal_checkpoint("one"), Computed(attention="eager")
    models.free = 1.8 * size(one)
    usual = models.load(one)
    assert not models.fit_together(one, one, eager)
    other = models.load(one, computed=eager)
    assert list(models._loaded.values()) == [other]
    assert other.model.config._attn_implementation == "eager"
    usual = models.load(one)
    assert usual.model.config._attn_implementation == "sdpa"
    half = Computed(dtype="bfloat16")  # half of the weights fits beside the whole
    assert models.fit_together(one, one, half)
    assert models.load(one, computed=half).model.dtype == torch.bfloat16
    assert models.load(one) is usual
    assert usual.model.dtype == torch.float32


@pytest.mark.parametrize("source", SOURCES)
def test_no_more_than_two_models_are_in_memory_while_noise_is_measured(
    causal_checkpoint, tmp_path, monkeypatch, source
):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    bench, alive, load = Bench(Store(tmp_path)), [], loading.load

    def counted(*args):
        gc.collect()
        before = sum(model() is not None for model in alive)
        assert before < KEPT
        loaded = load(*args)
        alive.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(loading, "load", counted)
    bench.scores(two, {"text": DATA}, one)
    bench.models.load(two, like=one)
    assert sum(model() is not None for model in alive) == KEPT
    bench.noise(one, {"text": DATA}, source)
    assert len(alive) == (2 if source == BATCH else 3)


def test_noise_of_a_model_beside_itself_is_that_from_files(
    causal_checkpoint, tmp_path, monkeypatch
):
    """The model that is computed in the usual way is not the one whose attention is replaced."""
    one = causal_checkpoint("one")

    def noise(name):
        return Bench(Store(tmp_path / name)).noise(one, {"text": DATA}, ATTENTION)[1]["text"]

    from_files = noise("files")
    monkeypatch.setattr("compression_gates.evals.scoring.head._matching_head", lambda *args: None)
    monkeypatch.setattr("compression_gates.evals.bench.MAX_LOGITS_BYTES", 0)
    beside = noise("beside")
    assert beside["js"].max() > 0
    np.testing.assert_allclose(beside["nll"], from_files["nll"], rtol=1e-6)


def test_divergence_does_not_depend_on_what_is_kept(causal_checkpoint, tmp_path, monkeypatch):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)

    def score(name: str) -> tuple[Scored, list[str]]:
        scored = Bench(Store(tmp_path / name)).scores(two, {"text": DATA}, one)["text"]
        files = (tmp_path / name / "measurements").glob("*.npy")
        return scored, sorted(file.name.split(".")[-2] for file in files)

    by_states, files = score("states")
    assert files == ["head", "predictions"]
    monkeypatch.setattr("compression_gates.evals.scoring.head._matching_head", lambda *args: None)
    by_logits, files = score("logits")
    assert files == ["predictions"]
    monkeypatch.setattr("compression_gates.evals.bench.MAX_LOGITS_BYTES", 0)
    beside, files = score("beside")
    assert files == []
    # Where the two do not fit together, the logits are written after all.
    monkeypatch.setattr(Models, "fit_together", lambda *both: False)
    apart, files = score("apart")
    assert files == ["predictions"]
    for name in ("js", "kl_forward", "kl_backward", "tv", "nll", "agree"):
        for other in (by_logits, beside, apart):
            np.testing.assert_allclose(by_states[name], other[name], rtol=1e-6, atol=1e-6)


def test_two_that_do_not_fit_are_not_timed(causal_checkpoint, tmp_path, monkeypatch):
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    monkeypatch.setattr(Models, "fit_together", lambda *both: False)
    with pytest.raises(EvalError, match="does not fit into memory beside its baseline"):
        Bench(Store(tmp_path)).time_pair(one, two, DATA)


def test_a_dtype_by_option_is_in_the_key(causal_checkpoint, tmp_path):
    one = causal_checkpoint("one")
    half = Bench(Store(tmp_path), dtype="bfloat16")
    assert str(half.models.load(one).model.dtype) == "torch.bfloat16"
    assert half.environment() != Bench(Store(tmp_path)).environment()


def test_auto_places_a_model_by_itself(causal_checkpoint, tmp_path):
    one = causal_checkpoint("one")
    placed = Bench(Store(tmp_path), device="auto").scores(one, {"text": DATA})["text"]
    single = Bench(Store(tmp_path)).scores(one, {"text": DATA})["text"]
    assert placed["nll"] == pytest.approx(single["nll"], abs=1e-5)


def test_a_model_to_change_has_the_settings_of_its_checkpoint(models, causal_checkpoint):
    one = causal_checkpoint("one", pad_token_id=None)
    asked = {"bos_token_id": 1, "eos_token_id": [2, 5], "repetition_penalty": 1.2}
    (one.path / "generation_config.json").write_text(json.dumps(asked))
    kept = models.load(one).model
    assert kept.generation_config.repetition_penalty is None
    assert kept.config.pad_token_id is not None
    for free in (1e9, 0):
        models.free = free
        model = models.to_change(one)
        assert {name: getattr(model.generation_config, name) for name in asked} == asked
        assert model.config.pad_token_id is None
