"""Damaged or hostile data, templates and reports, and full disks, give one-line errors."""

import json
import os
import resource
import signal
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.bench import Bench
from compression_gates.evals.data.items import DataSet, Prompt, ProtocolOverrides, Text, text_file
from compression_gates.evals.data.paths import expanded
from compression_gates.evals.data.rows import Place, read_rows
from compression_gates.evals.data.tables import Table, data_set
from compression_gates.evals.errors import EvalError
from compression_gates.evals.gates.earlier import read_earlier_run
from compression_gates.evals.models.loading import load
from compression_gates.evals.scoring import prompts
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.store.store import Store

CHAT = DataSet("chat", (Prompt("Where?", "there", 0),), ProtocolOverrides(chat=True))
TEMPLATES = {
    "nothing": ("{% if false %}x{% endif %}", "it writes nothing"),
    "white space": ("{{ '\n' }}", "it writes nothing"),
    "a loop": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "no end after",
    ),
    "10 MB": ("{{ 'x' * 10000000 }}", "it writes 10,000,000 characters"),
    "many lines": ("{% for i in range(99999) %}{{ 'line\n' }}{% endfor %}", "it writes 499,995"),
    "a terabyte": ("{{ 'x' * 1000000000000 }}", "MemoryError"),
    "10 GB": ("{{ ('x' * 1000000000 ~ 'y') * 10 }}", "fails"),  # too long or too large
    "an error": ("{{ raise_exception('no\nsystem') }}", "no system"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    "no template": ("{% for %}", "TemplateSyntaxError"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_templates(causal_checkpoint, monkeypatch, name):
    monkeypatch.setattr(prompts, "RENDER_SECONDS", 0.2 if name == "a loop" else 2)
    loaded = load(causal_checkpoint())
    loaded.tokenizer.chat_template, part = TEMPLATES[name]
    with pytest.raises(EvalError, match="model: its chat template fails: ") as caught:
        encode_prompts(loaded, CHAT, chat=True)
    assert part in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_plain_template_on_a_long_prompt(causal_checkpoint):
    loaded = load(causal_checkpoint())
    loaded.tokenizer.chat_template = "{% for m in messages %}<s>{{ m.content }}{% endfor %}"
    long = DataSet("chat", (Prompt("word " * 40_000, "", 0),))
    assert len(encode_prompts(loaded, long, chat=True)[0]) > 40_000


@contextmanager
def one_line():
    """Allow an EvalError of one line."""
    message = ""
    try:
        yield
    except EvalError as error:
        message = str(error)
    assert "\n" not in message


@pytest.fixture
def table(tmp_path):
    def make(name="rows.parquet", **columns):
        parquet.write_table(pa.table({"text": ["a story"] * 200, **columns}), tmp_path / name)
        return tmp_path / name

    return make


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_parquet_with_a_flipped_bit(tmp_path_factory, place, bit):
    file = tmp_path_factory.mktemp("flipped") / "rows.parquet"
    parquet.write_table(pa.table({"text": ["a story"] * 20, "label": [1] * 20}), file)
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    with one_line():
        read_rows(Place(path=str(file)))


@pytest.mark.parametrize(
    "dates",
    [pa.array([2**62], pa.timestamp("us")), pa.array([2**30], pa.date32()),
     pa.array([2**62], pa.duration("s")), pa.array([1], pa.timestamp("us", tz="Mars/Olympus"))],
    ids=["year 148108", "date", "duration", "zone"],
)  # fmt: skip
def test_odd_dates(table, dates):
    file = table(when=pa.chunked_array([dates] * 200))
    with pytest.raises(EvalError, match="not Parquet: ") as caught:
        read_rows(Place(path=str(file)))
    assert str(caught.value).isprintable()


def test_plain_dates(table):
    assert len(read_rows(Place(path=str(table(when=[datetime(2024, 2, 29)] * 200))))) == 200


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.98])
def test_a_saved_folder_with_a_damaged_file(tmp_path, name, place):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a story"] * 50}).save_to_disk(tmp_path / "saved")
    file = tmp_path / "saved" / name
    content = file.read_bytes()
    middle = int(place * len(content))
    file.write_bytes(content[:middle] + bytes(16) + content[middle + 16 :])
    with one_line():
        read_rows(Place(path=str(tmp_path / "saved")))


@pytest.mark.parametrize(
    "label", ["7" * 5000, "-" + "7" * 5000, 10**4000, 2**31, "٣" * 4500, "x" * 10_000]
)
def test_labels_without_measure(tmp_path, label):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "a", "label": label}) + "\n")
    table = Table(Place(path=str(file)), {"text": "text", "label": "label"})
    with pytest.raises(EvalError, match=r"row 1: label .* is not a class") as caught:
        data_set("rows", table)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "text.txt"])
def test_named_pipes(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(EvalError, match="not a regular file"):
        read_rows(Place(path=str(tmp_path / name)))
    with pytest.raises(EvalError, match="not a regular file"):
        text_file(str(tmp_path / name), by_line=False)


@pytest.mark.parametrize("reference", ["~nosuchuser", "~nosuchuser/x", "~no such/x.jsonl"])
def test_a_user_that_does_not_exist(reference):
    assert str(expanded(reference)) == reference
    with pytest.raises(EvalError, match="no such"):
        read_rows(Place(path=reference))


def since(tmp_path, text, name="report.jsonl"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_earlier_run(tmp_path)


VERDICT = {"candidate": "a", "metric": "flips", "limit": 0.1, "value": 0.1, "low": 0.0, "high": 0.2,
           "confidence": 0.95, "n": 10}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"n": 1e999}, {"n": "7" * 5000}, {"value": [1]}, {"value": 10**400}, {"candidate": {}},
     {"n": None}, {"confidence": 7.0}, {"limit": "\x1b[31m"}, {"metric": None}],
    ids=str,
)  # fmt: skip
def test_a_tampered_report(tmp_path, change):
    row = {"verdict": {**VERDICT, **change}}
    with pytest.raises(EvalError, match="delete the damaged report"):
        since(tmp_path, json.dumps(row) + "\n")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, b"\xff\xfe", "null", "{}\n7", '{"verdict": 1}', '{"verdict": []}',
             '{"verdict": {}, "origin": 7}'],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_a_report_that_is_none(tmp_path, text):
    with pytest.raises(EvalError, match="delete the damaged report"):
        since(tmp_path, text)


def test_a_report_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "report.jsonl")
    with pytest.raises(EvalError, match="not a regular file"):
        read_earlier_run(tmp_path)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([*VERDICT, "verdict", "origin", "items"]), inner, max_size=9),
))  # fmt: skip
def test_any_report_is_read_or_refused(tmp_path_factory, row):
    folder = tmp_path_factory.mktemp("since")
    with one_line():
        for record in since(folder, json.dumps(row) + "\n").records.values():
            assert record.standard_error >= 0 or np.isnan(record.standard_error)


@contextmanager
def small_files(most: int):
    """Make every write beyond ``most`` bytes of a file fail, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("most", [100, 20_000, 60_000])
def test_a_disk_that_fills_up(causal_checkpoint, tmp_path, most):
    """There is no room for a measurement, or only for part of the table of predictions."""
    one, two = causal_checkpoint("one"), causal_checkpoint("two", seed=1)
    tasks = {"text": DataSet("t", tuple(Text("a story of a " * 40, i) for i in range(4)))}
    bench = Bench(Store(tmp_path / "store"))
    with pytest.raises(EvalError) as caught, small_files(most):
        bench.scores(two, tasks, one)
    assert "\n" not in str(caught.value)
    assert "File too large" in str(caught.value)
    left = [file.name for file in (tmp_path / "store" / "measurements").iterdir()]
    assert not [name for name in left if "partial" in name]
    assert bench.scores(two, tasks, one)["text"]["js"].size
