"""The device that a worker runs models on."""

import platform
import re
from contextlib import suppress
from pathlib import Path

from evals.errors import EvalError

CPU, AUTO = "cpu", "auto"


def device_of(option: str, worker: str) -> str:
    """The device of one worker: ``cuda`` deals the GPUs out in turn, ``auto`` spreads a model over
    all of them and the CPU.

    Raises:
        EvalError: no device of that name here.
    """
    if option in (CPU, AUTO):
        return option
    if not re.fullmatch(r"cuda(:\d+)?", option):
        raise EvalError(f"--device {option}: not cpu, cuda, cuda:N or auto")
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise EvalError(f"--device {option}: torch {torch.__version__} sees no CUDA device here")
    index = int(option[5:]) if ":" in option else int(worker.removeprefix("gw")) % count
    if index >= count:
        raise EvalError(f"--device {option}: there are {count} devices, counted from 0")
    return f"cuda:{index}"


def device_facts(device: str, threads: int) -> dict[str, object]:
    """What numbers depend on of a device."""
    if device == CPU:
        return {"device": platform.machine(), "threads": threads}
    import torch

    if device != AUTO:
        return {"device": torch.cuda.get_device_name(device)}
    names = [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())]
    return {"device": [AUTO, *names, platform.machine()], "threads": threads}


def machine(device: str) -> str:
    """What timings depend on of a machine: the model of its CPU, and of its GPU where one is used.

    Not its host name: runners of one kind have a new one every night.
    """
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        cpu = names[0]
    return cpu if device == CPU else f"{cpu}, {device_facts(device, 0)['device']}"
