import errno
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.evals.errors import EvalError
from compression_gates.evals.scoring import prediction_table
from compression_gates.evals.scoring.prediction_table import PredictionTable, TableWriter, blocks
from compression_gates.evals.store.measurement import DamagedError

ROWS = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
OFFSETS = (0, 3, 4, 11)
FACTS = {"kind": "logits"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(prediction_table, "BLOCK", 10)  # two rows


def write(path, offsets=OFFSETS, rows=ROWS):
    with TableWriter(path, offsets, rows.shape[1], rows.dtype, FACTS) as table:
        for start, stop in reversed(list(pairwise(offsets))):
            table.put(start, rows[start:stop])


def read(path, offsets=OFFSETS):
    table = PredictionTable(path)
    return torch.cat(
        [
            table.rows(*block)
            for start, stop in pairwise(offsets)
            for block in blocks(start, stop, 5)
        ]
    )


def test_what_is_read_is_what_was_written(tmp_path):
    write(tmp_path / "table.npy")
    assert torch.equal(read(tmp_path / "table.npy"), ROWS)
    assert np.array_equal(np.load(tmp_path / "table.npy"), ROWS)  # numpy reads it too
    table = PredictionTable(tmp_path / "table.npy")
    assert (table.shape, table.facts) == ((11, 5), FACTS)
    assert torch.equal(table.window(4, 11), ROWS[4:])
    assert [file.name for file in tmp_path.iterdir()] == ["table.npy"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_rows_keep_their_dtype(tmp_path, dtype):
    rows = ROWS.to(dtype)
    write(tmp_path / "table.npy", rows=rows)
    assert read(tmp_path / "table.npy").dtype == dtype
    assert torch.equal(read(tmp_path / "table.npy"), rows)
    size = (tmp_path / "table.npy").stat().st_size
    write(tmp_path / "table.npy")
    assert (tmp_path / "table.npy").stat().st_size - size == 11 * 5 * (4 - dtype.itemsize) + (
        len("float32") - len(str(dtype)) + len("torch.")
    )


def test_a_table_that_is_open_is_read_on_when_another_takes_its_place(tmp_path):
    path = tmp_path / "table.npy"
    write(path)
    with PredictionTable(path) as table:
        write(path, rows=ROWS + 1)
        assert torch.equal(table.rows(0, 2), ROWS[:2])
        path.unlink()
        table.check()


def test_a_check_finds_any_damaged_block(tmp_path):
    path = tmp_path / "table.npy"
    write(path)
    content = bytearray(path.read_bytes())
    content[128 + 10 * 5 * 4] ^= 1  # in the last row
    path.write_bytes(content)
    with PredictionTable(path) as table, pytest.raises(DamagedError):
        table.check()


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_no_flipped_bit_is_read(tmp_path_factory, place, bit):
    path = tmp_path_factory.getbasetemp() / "flipped.npy"
    write(path)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        read(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: 128 + 11 * 5 * 4],
        lambda content: content[:200],
        lambda content: b"",
        lambda content: content + b"\0",
        lambda content: content[:128] + bytes(11 * 5 * 4) + content[128 + 11 * 5 * 4 :],
        lambda content: content[:228] + bytes(11 * 5 * 4 - 100) + content[128 + 11 * 5 * 4 :],
        lambda content: content.replace(b"(11, 5)", b"(5, 11)"),
        lambda content: content.replace(b"<f4", b"<i4"),
    ],
)
def test_a_damaged_table_is_not_read(tmp_path, damage):
    path = tmp_path / "table.npy"
    write(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedError):
        read(path)


def test_blocks_that_change_places_are_not_read(tmp_path):
    path = tmp_path / "table.npy"
    write(path)
    content = path.read_bytes()
    one, two = content[128:168], content[208:248]  # the first blocks of two windows
    path.write_bytes(content[:128] + two + content[168:208] + one + content[248:])
    with pytest.raises(DamagedError):
        read(path)


def test_the_table_of_another_model_is_not_read(tmp_path):
    write(tmp_path / "other.npy")
    (tmp_path / "other.npy").rename(tmp_path / "table.npy")
    with pytest.raises(DamagedError):
        read(tmp_path / "table.npy")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "table.npy")
    with pytest.raises(DamagedError):
        PredictionTable(tmp_path / "table.npy")


def test_an_error_leaves_no_table(tmp_path):
    def broken():
        with TableWriter(tmp_path / "table.npy", OFFSETS, 5, ROWS.dtype, FACTS) as table:
            table.put(0, ROWS[:3])
            raise RuntimeError("the model is broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

        def seek(self, place):
            self.stream.seek(place)

        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def filling():
        with TableWriter(tmp_path / "table.npy", OFFSETS, 5, ROWS.dtype, FACTS) as table:
            table._stream = Full(table._stream)
            table.put(0, ROWS[:3])

    with pytest.raises(EvalError, match=r"cannot be written to .*: No space left on device"):
        filling()
    assert not list(tmp_path.iterdir())
