"""What a step that fails during calibration leaves behind, while its error is still referenced."""

import threading
from itertools import count

import pytest

from compression_gates.compression.apply import compress
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.low_rank import step as low_rank
from compression_gates.compression.quantization import step as quantization
from compression_gates.compression.recipe import Recipe


@pytest.mark.parametrize(
    ("recipe", "module", "function"),
    [("gptq-int4", quantization, "quantize_layer"), ("svdllm-50", low_rank, "_factors")],
)
def test_a_step_that_fails_ends_its_threads_and_removes_its_hooks(
    tiny_llama, batches, recipe, module, function, monkeypatch
):
    solve, calls = getattr(module, function), count()

    def fail(*args):
        if next(calls) == 4:
            raise CompressionError("the fifth layer cannot be solved")
        return solve(*args)

    monkeypatch.setattr(module, function, fail)
    threads = set(threading.enumerate())
    with pytest.raises(CompressionError, match="the fifth layer") as caught:
        compress(tiny_llama, Recipe.parse(recipe), batches * 4)
    assert caught.tb is not None  # it refers to the frames of the step
    left = {type(thread).__name__ for thread in threading.enumerate() if thread not in threads}
    assert left <= {"TMonitor"}  # of tqdm
    parts = list(tiny_llama.modules())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in parts)
    assert not any("forward" in vars(part) for part in parts)
