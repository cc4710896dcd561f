"""The device that a worker runs models on."""

import re

from evals.errors import EvalError


def device_of(option: str, worker: str) -> str:
    """The device of one worker: ``cuda`` deals the GPUs out in turn.

    Raises:
        EvalError: no device of that name here.
    """
    if option == "cpu":
        return option
    if not re.fullmatch(r"cuda(:\d+)?", option):
        raise EvalError(f"--device {option}: not cpu, cuda or cuda:N")
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise EvalError(f"--device {option}: torch {torch.__version__} sees no CUDA device here")
    index = int(option[5:]) if ":" in option else int(worker.removeprefix("gw")) % count
    if index >= count:
        raise EvalError(f"--device {option}: there are {count} devices, counted from 0")
    return f"cuda:{index}"
