"""Devices of options and workers, and their properties in keys."""

import os
import platform
from pathlib import Path

import pytest
import torch

from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.device import (
    all_cores,
    cores,
    cpu_model,
    device_facts,
    device_of,
    timed_on,
)


@pytest.fixture
def gpus(monkeypatch):
    """``gpus(n)``: torch reports ``n`` GPUs."""

    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")

    return see


@pytest.mark.parametrize(("count", "device"), [(0, "cpu"), (1, "cuda:0"), (2, "auto"), (8, "auto")])
def test_auto_is_the_one_device_where_there_is_one(gpus, count, device):
    gpus(count)
    assert device_of("auto", 0) == device


def test_cuda_is_dealt_out_to_workers(gpus):
    gpus(2)
    assert [device_of("cuda", n) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of("cuda:1", 0) == "cuda:1"


@pytest.mark.parametrize(("option", "count"), [("cuda", 0), ("cuda:2", 2), ("gpu", 1)])
def test_a_device_that_is_not_here_is_an_error(gpus, option, count):
    gpus(count)
    with pytest.raises(EvalError, match=f"device {option}"):
        device_of(option, 0)


def test_scores_depend_on_the_kind_of_device(gpus):
    gpus(2)
    assert device_facts("cpu") == {"device": platform.machine()}
    assert device_facts("cuda:1") == {"device": "GPU cuda:1"}
    assert device_facts("auto") == {"device": ["auto", "GPU 0", "GPU 1", platform.machine()]}


def test_times_depend_on_the_processor_and_not_on_the_name_of_the_host(gpus, monkeypatch):
    gpus(2)
    before = [timed_on(device) for device in ("cpu", "cuda:0", "auto")]
    monkeypatch.setattr(platform, "node", lambda: "another")
    assert [timed_on(device) for device in ("cpu", "cuda:0", "auto")] == before
    assert before[0] == [cpu_model(), cores()]
    assert before[1] == ["GPU cuda:0"]
    assert before[2] == ["GPU 0", "GPU 1", cpu_model(), cores()]


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc/cpuinfo")
def test_the_processor_is_called_as_linux_calls_it(monkeypatch):
    cpuinfo = Path("/proc/cpuinfo").read_text()
    name = cpu_model()
    assert name
    if "model name" in cpuinfo:
        assert f": {name}\n" in cpuinfo
    cpu_model.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda self: "flags : none\nmodel name\t: A CPU @ 1\n")
    assert cpu_model() == "A CPU @ 1"
    cpu_model.cache_clear()


def test_threads_are_all_cores_for_a_while():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with all_cores():
            assert torch.get_num_threads() == cores() <= os.cpu_count()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
