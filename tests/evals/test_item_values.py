"""Per-item values: storing, reading and pairing."""

from contextlib import suppress

import numpy as np
import pytest
from scipy import stats

from compression_gates.evals.data.items import DataSet, Prompt
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.result import Scored
from compression_gates.evals.statistics.item_values import (
    MEAN,
    PROPORTION,
    SCORE_CHANGE,
    ItemValues,
    pack,
    unpack,
)
from compression_gates.evals.statistics.means import studentized_mean
from compression_gates.evals.statistics.proportions import clustered_score_change
from compression_gates.evals.store.measurement import Measurement


def scored(model="m", count=4, protocol="p", name="d"):
    items = tuple(Prompt(f"{name} {i}", "yes", i) for i in range(count))
    return Scored(DataSet(name, items), Measurement({}, {"model": model, "protocol": protocol}))


def items_of(values, documents=None, kind=SCORE_CHANGE, **origin):
    documents = range(len(values)) if documents is None else documents
    return ItemValues.of(kind, values, documents, scored(**origin))


def test_mean_is_stored_by_document_with_the_same_interval():
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(40), generator.integers(1, 30, 40))
    values = generator.exponential(size=len(documents))
    items = items_of(values, documents, MEAN)
    assert len(items.values) == 40
    assert items.sizes.sum() == len(values)
    estimate, expected = items.estimate(), studentized_mean(values, documents)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (expected.value, expected.low, expected.high), rel=1e-6
    )
    assert (estimate.n, estimate.clusters) == (expected.n, expected.clusters)


def test_shares_are_stored_by_item():
    values, documents = [1.0, 0.0, -1.0, 0.5], ["b", "b", "a", "a"]
    items = items_of(values, documents)
    assert items.values.tolist() == values
    assert items.estimate() == clustered_score_change(values, documents)


def test_rise_is_tested_in_pairs():
    generator = np.random.default_rng(1)
    then = generator.normal(size=200)
    now = then + generator.normal(0.03, 0.2, 200)
    rise = items_of(now, kind=MEAN).rise_since(items_of(then, kind=MEAN))
    assert rise.value == pytest.approx(float((now - then).mean()), abs=1e-6)
    expected = stats.ttest_rel(now, then, alternative="greater").pvalue
    assert rise.p_above(0.0) == pytest.approx(expected, rel=0.2)


def test_flips_are_counted_by_direction():
    then = items_of([1, 0, 0, 0], kind=PROPORTION)
    now = items_of([0, 1, 1, 0], kind=PROPORTION)
    assert now.flips_since(then) == (2, 1)
    assert now.rise_since(then).value == 0.25


def test_flips_are_undefined_for_shared_documents():
    then, now = (items_of(values, [0, 0, 1, 1]) for values in ([0, 0, 0, 0], [1, 1, 0, 0]))
    assert now.flips_since(then) is None
    assert items_of([0.5, 0, 0, 0]).flips_since(items_of([0, 0, 0, 0])) is None


@pytest.mark.parametrize(
    "other", [{"model": "n"}, {"protocol": "q"}, {"name": "e"}, {"documents": [0, 0, 1, 1]}]
)
def test_different_items_are_not_paired(other):
    one, two = items_of([0, 0, 0, 1]), items_of([0, 0, 0, 1], **other)
    assert not one.same_items(two)
    with pytest.raises(ValueError, match="different items"):
        one.rise_since(two)


def test_logs_are_identified_by_their_scores():
    def logged(scores):
        data = scored().data
        measurement = Measurement({"exact_match": np.array(scores)}, {"data": "d"})
        return ItemValues.of(SCORE_CHANGE, [0, 0, 0, 1], range(4), Scored(data, measurement))

    assert logged([1, 1, 1, 1]).same_items(logged([1, 1, 1, 1]))
    assert not logged([1, 1, 1, 1]).same_items(logged([1, 1, 1, 0]))


def test_pack_and_unpack():
    values = {
        ("m", "f1_drop"): items_of([0.0, 0.25, -1.0, 1.0], [0, 0, 1, 1]),
        ("m", "js_divergence"): items_of([0.1, 0.2], kind=MEAN, count=2),
        ("n", "f1_drop"): items_of([0.0, 0.0, np.nan, 1.0], [0, 0, 1, 1]),
    }
    again, run = unpack(pack(values, "some run"), "x")
    assert run == "some run"
    assert again.keys() == values.keys()
    for key, items in values.items():
        assert again[key].same_items(items)
        np.testing.assert_array_equal(again[key].values, items.values)
        assert again[key].kind == items.kind
    text = values["m", "f1_drop"].to_text()
    assert text.isascii()
    assert ItemValues.from_text(text).same_items(values["m", "f1_drop"])


def test_layout_of_items_is_stored_once():
    values = np.random.default_rng(0).integers(-1, 2, (50, 5000))
    layout = np.ones(5000, np.int32), np.arange(5000, dtype=np.int32)
    many = {
        (f"m{i}", "f1_drop"): ItemValues(SCORE_CHANGE, row.astype(np.float32), *layout, {})
        for i, row in enumerate(values)
    }
    one = {key: items for key, items in many.items() if key[0] == "m0"}
    assert len(pack(many)) < 50 * len(pack(one)) / 2


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_damaged_file_is_one_error(cut):
    content = pack({("m", "f1_drop"): items_of(np.arange(400) % 2, count=400)})
    with pytest.raises(EvalError, match=r"items.npz is damaged; delete it"):
        unpack(content[:cut], "items.npz")


def test_flipped_byte_is_an_error_or_harmless():
    content = pack({("m", "f1_drop"): items_of([0, 1, 0, 1])})
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        with suppress(EvalError):
            unpacked, _ = unpack(bytes(changed), "items.npz")
            assert unpacked["m", "f1_drop"].values.tolist() == [0, 1, 0, 1]


def valid(**changes) -> ItemValues:
    parts = {
        "kind": SCORE_CHANGE, "values": np.zeros(3, np.float32), "sizes": np.ones(3, np.int32),
        "documents": np.arange(3, dtype=np.int32), "origin": {},
    }  # fmt: skip
    return ItemValues(**parts | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"values": np.zeros((3, 2), np.float32)},
        {"values": np.zeros(2, np.float32)},
        {"values": np.zeros(3)},
        {"values": np.array(["a", "b", "c"])},
        {"values": np.full(3, 2, np.float32)},
        {"values": np.full(3, -0.5, np.float32), "kind": PROPORTION},
        {"sizes": np.full(3, 2**30, np.int32)},  # would be repeated 2**30 times
        {"sizes": np.zeros(3, np.int32)},
        {"documents": np.array([-1, 0, 1], np.int32)},
        {"kind": "another"},
    ],
)
def test_forged_values_are_one_error(changes):
    unpack(pack({("m", "f1_drop"): valid()}), "items.npz")
    with pytest.raises(EvalError, match=r"items.npz is damaged"):
        unpack(pack({("m", "f1_drop"): valid(**changes)}), "items.npz")
