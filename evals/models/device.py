"""Devices: choosing one, what scores and timings depend on, and CPU threads."""

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
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of the messages of a ``RuntimeError`` that is raised when an allocation fails."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed, on a device or in host memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    )


def device_of(option: str, worker: int = 0) -> str:
    """Return the device of one worker: ``cpu``, ``cuda:N`` or ``auto``.

    Args:
        option: ``cpu``, ``cuda:N``, ``cuda`` or ``auto``. ``cuda`` assigns the GPUs to the workers
            in turn. ``auto`` means the CPU if there is no GPU, and ``cuda:0`` if there is one. If
            there are several, ``auto`` is returned, and each model is spread over all GPUs and the
            CPU.
        worker: index of the worker.

    Raises:
        EvalError: there is no such device.
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
    index = int(option[5:]) if ":" in option else worker % count
    if index >= count:
        raise EvalError(f"device {option}: there are {count} devices, counted from 0")
    return f"cuda:{index}"


def device_facts(device: str) -> dict[str, object]:
    """Return the properties of a device that scores depend on. They do not depend on the number of
    threads."""
    if device == AUTO:
        return {"device": [AUTO, *_gpus(device), platform.machine()]}
    return {"device": platform.machine() if device == CPU else _gpus(device)[0]}


def timed_on(device: str) -> list[object]:
    """Return what timings depend on: names of the GPUs, or model and number of cores of the CPU."""
    cpu = [cpu_model(), cores()] if device in (CPU, AUTO) else []
    return [*_gpus(device), *cpu]


def _gpus(device: str) -> list[str]:
    if device == CPU:
        return []
    import torch

    gpus = range(torch.cuda.device_count()) if device == AUTO else [device]
    return [torch.cuda.get_device_name(gpu) for gpu in gpus]


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(_own_cores())


def _own_cores() -> list[int]:
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def lock_names(device: str) -> list[str]:
    """Return the names of the locks that a process holds to have a device to itself.

    On the CPU, each logical core that the process may use has one, so that processes without a
    common core do not wait for one another.
    """
    if device == CPU:
        return [f"{CPU}-{core}" for core in _own_cores()]
    return [device.replace(":", "-")]


@contextmanager
def threads_restored() -> Iterator[None]:
    """Restore torch's number of threads on exit."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use every core of this process, and restore its number of threads on exit."""
    import torch

    with threads_restored():
        torch.set_num_threads(cores())
        yield


@cache
def cpu_model() -> str:
    """Return the manufacturer's name of the CPU, or its architecture if the name is unknown."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout
    else:
        file = Path("/proc/cpuinfo")
        lines = file.read_text().splitlines() if file.is_file() else []
        name = next((x.partition(":")[2] for x in lines if x.startswith("model name")), "")
    return name.strip() or platform.processor() or platform.machine()
