"""The device that a worker runs models on."""

import platform
import re

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
