"""Batches that do not fit into memory are split, and every item is scored exactly once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression_gates.evals.errors import EvalError
from compression_gates.evals.scoring.batches import in_batches


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 400), st.integers(50, 500)
)
def test_every_item_is_run_once_for_any_memory_size(lengths, batch_tokens, memory):
    done, tried = [], []

    def run(batch):
        tokens = len(batch) * max(lengths[i] for i in batch)
        tried.append(tokens)
        if tokens > memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        done.extend(batch)

    in_batches(lengths, batch_tokens, run, "model: data", "text")
    assert sorted(done) == list(range(len(lengths)))
    # After a failure, no batch of the same size or larger is tried.
    failed = [tokens for tokens in tried if tokens > memory]
    assert failed == sorted(failed, reverse=True)


def test_cpu_out_of_memory_splits_batch():
    tried = []

    def run(batch):
        tried.append(len(batch))
        if len(batch) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    in_batches([10] * 4, 40, run, "model: data", "text")
    assert tried == [4, 2, 1, 1, 1, 1]


def test_single_item_that_does_not_fit_is_an_error():
    def run(batch):
        raise MemoryError

    with pytest.raises(EvalError, match="model: data: a single text does not fit into memory"):
        in_batches([10], 40, run, "model: data", "text")


def test_other_runtime_errors_are_raised():
    def run(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches([10], 40, run, "model: data", "text")
