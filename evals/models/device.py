"""The device that a worker runs models on."""

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from compression_gates.evals.errors import EvalError

CPU, AUTO = "cpu", "auto"


def device_of(option: str, worker: str) -> str:
    """The device of one worker.

    ``cuda`` deals the GPUs out to workers in turn. ``auto`` is the CPU where there is no GPU,
    ``cuda:0`` where there is one, and otherwise spreads each model over all GPUs and the CPU.

    Raises:
        EvalError: no device of that name here.
    """
    if option == CPU:
        return CPU
    if option == AUTO:
        import torch

        return {0: CPU, 1: "cuda:0"}.get(torch.cuda.device_count(), AUTO)
    if not re.fullmatch(r"cuda(:\d+)?", option):
        raise EvalError(f"device {option}: not cpu, cuda, cuda:N or auto")
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise EvalError(f"device {option}: torch {torch.__version__} sees no CUDA device here")
    index = int(option[5:]) if ":" in option else int(worker.removeprefix("gw")) % count
    if index >= count:
        raise EvalError(f"device {option}: there are {count} devices, counted from 0")
    return f"cuda:{index}"


def device_facts(device: str) -> dict[str, object]:
    """What scores depend on of a device. The number of threads is no part of it."""
    if device == CPU:
        return {"device": platform.machine()}
    if device == AUTO:
        return {"device": [AUTO, *_gpus(device), platform.machine()]}
    return {"device": _gpus(device)[0]}


def timed_on(device: str) -> list[object]:
    """What a time depends on of a device: names of the GPUs, or model and cores of the CPU."""
    cpu = [cpu_model(), cores()]
    if device == CPU:
        return cpu
    return _gpus(device) if device != AUTO else [*_gpus(device), *cpu]


def _gpus(device: str) -> list[str]:
    import torch

    found = range(torch.cuda.device_count()) if device == AUTO else [device]
    return [torch.cuda.get_device_name(gpu) for gpu in found]


def cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def all_cores() -> Iterator[None]:
    """Lets torch use every core of this process, and restores its number of threads on exit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def cpu_model() -> str:
    """The name of the CPU as its maker gives it, or its architecture where none is told."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        told = subprocess.run(command, capture_output=True, text=True).stdout
    else:
        file = Path("/proc/cpuinfo")
        lines = file.read_text().splitlines() if file.is_file() else []
        told = next((x.partition(":")[2] for x in lines if x.startswith("model name")), "")
    return told.strip() or platform.processor() or platform.machine()
