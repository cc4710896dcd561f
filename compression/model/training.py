"""Train a model for a number of steps, for distillation and movement pruning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import trange

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.capture import Batch

WARM_UP = 0.1
"""Share of the steps with a rising learning rate; afterwards it falls linearly to zero."""
MAX_NORM = 1.0
"""Norm to which gradients are clipped."""

Loss = Callable[[Batch, float], Tensor]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters and their peak learning rate."""

    parameters: Sequence[Tensor]
    learning_rate: float


def endless(batches: Sequence[Batch], seed: int) -> Iterator[Batch]:
    """Yield the batches forever, in a new random order in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index]


def fit(
    parts: Sequence[ParameterGroup],
    batches: Sequence[Batch],
    loss: Loss,
    steps: int,
    seed: int,
    desc: str,
    after_step: Callable[[], None] = lambda: None,
) -> list[float]:
    """Minimize ``loss(batch, progress)`` with AdamW, and return the loss of every step.

    Args:
        parts: the parameters to train; frozen ones remain unchanged.
        batches: training data, used in a new random order in each epoch.
        loss: loss of a batch, given the share of completed steps.
        steps: number of steps.
        seed: seed for the order of batches.
        desc: label of the progress bar.
        after_step: called after every update.

    Raises:
        CompressionError: there is no batch, or a loss is not finite.
    """
    if not batches:
        raise CompressionError("training needs at least one batch of text")
    parts = [
        ParameterGroup([p for p in part.parameters if p.requires_grad], part.learning_rate)
        for part in parts
    ]
    trained = [parameter for part in parts for parameter in part.parameters]
    # Updates and their moments are too small for half precision, so they are kept in float32.
    masters = {id(p): p.detach().float().requires_grad_() if _is_half(p) else p for p in trained}
    optimizer = torch.optim.AdamW(
        [
            {"params": [masters[id(p)] for p in part.parameters], "lr": part.learning_rate}
            for part in parts
        ],
        weight_decay=0.0,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            1.0, (step + 1) / (WARM_UP * steps), (steps - step) / ((1 - WARM_UP) * steps)
        ),
    )
    losses = []
    stream = endless(batches, seed)
    with (
        torch.enable_grad(),
        trange(steps, desc=desc, unit="step", leave=False, disable=None) as bar,
    ):
        for step in bar:
            value = loss(next(stream), step / steps)
            if not value.isfinite():
                raise CompressionError(f"training: the loss is not finite at step {step}")
            gradients = torch.autograd.grad(value, trained, allow_unused=True)
            for parameter, gradient in zip(trained, gradients, strict=True):
                master = masters[id(parameter)]
                master.grad = None if gradient is None else gradient.to(master.dtype).clone()
            torch.nn.utils.clip_grad_norm_(masters.values(), MAX_NORM)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                halves = [parameter for parameter in trained if _is_half(parameter)]
                for parameter in halves:
                    parameter.copy_(masters[id(parameter)])
                after_step()
                for parameter in halves:
                    masters[id(parameter)].masked_fill_(parameter == 0, 0.0)
            losses.append(value.item())
    for parameter in trained:
        parameter.grad = None
    return losses


def _is_half(parameter: Tensor) -> bool:
    return parameter.dtype in (torch.float16, torch.bfloat16)
