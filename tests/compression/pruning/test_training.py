"""The training loop against closed forms.

The gradient of a linear loss is constant. Adam's update is then equal to the learning rate, so the
changes of a parameter show the schedule.
"""

from itertools import pairwise

import pytest
import torch

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.training import ParameterGroup, endless, fit


def run(parameter, loss, steps, batches=({},), rate=0.1, seed=0, after_step=lambda: None):
    return fit([ParameterGroup([parameter], rate)], batches, loss, steps, seed, "test", after_step)


def step_sizes(steps, rate=0.1):
    """Return how far a parameter moves in each step under a constant gradient."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    seen = [0.0]
    run(parameter, lambda batch, progress: 3 * parameter.sum(), steps, rate=rate,
        after_step=lambda: seen.append(parameter.item()))  # fmt: skip
    return [before - after for before, after in pairwise(seen)]


def test_least_squares_reaches_the_optimum():
    generator = torch.Generator().manual_seed(0)
    system = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(20, generator=generator, dtype=torch.float64)
    best = torch.linalg.lstsq(system, target[:, None]).solution[:, 0]
    found = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    steps, rate = 300, 0.1
    losses = run(found, lambda batch, progress: (system @ found - target).square().mean(), steps,
                 rate=rate)  # fmt: skip
    # The last step is at most the last learning rate.
    reach = rate / (0.9 * steps)
    assert (found.detach() - best).abs().max() <= reach
    assert len(losses) == steps
    floor = float((system @ best - target).square().mean())
    curvature = float(torch.linalg.eigvalsh(system.T @ system / 20).max())
    assert floor <= losses[-1] <= floor + curvature * 4 * reach**2


def test_losses_are_evaluated_before_each_step():
    parameter = torch.nn.Parameter(torch.tensor(5.0))
    seen = []

    def loss(batch, progress):
        seen.append(parameter.item() ** 2)
        return parameter.square()

    assert run(parameter, loss, 7) == pytest.approx(seen, rel=1e-6)
    assert len(seen) == 7


def test_progress_is_the_fraction_of_completed_steps():
    parameter, seen = torch.nn.Parameter(torch.tensor(5.0)), []
    run(parameter, lambda batch, progress: seen.append(progress) or parameter.square(), 4)
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_learning_rate_rises_over_a_tenth_of_the_steps_and_falls_to_zero():
    steps, rate = 40, 0.1
    expected = [rate * min((step + 1) / 4, (40 - step) / 36) for step in range(steps)]
    # The tolerance covers Adam's epsilon of 1e-8.
    assert step_sizes(steps, rate) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 10, 15])
def test_learning_rate_never_exceeds_its_maximum(steps):
    assert max(step_sizes(steps, rate=0.1)) <= 0.1 * (1 + 1e-6)


def test_each_group_has_its_own_learning_rate():
    slow, fast = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    fit([ParameterGroup([slow], 1e-3), ParameterGroup([fast], 1e-1)], [{}],
        lambda batch, progress: slow.sum() + fast.sum(), 10, 0, "test")  # fmt: skip
    assert torch.allclose(fast, 100 * slow, rtol=1e-4)


def test_there_is_no_weight_decay():
    parameter = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    run(parameter, lambda batch, progress: parameter[0], 10)
    assert parameter[1].item() == 3.0


def test_gradients_are_clipped_to_a_norm_of_one():
    parameter, norms = torch.nn.Parameter(torch.zeros(4)), []
    run(parameter, lambda batch, progress: 1e6 * parameter.sum(), 3,
        after_step=lambda: norms.append(parameter.grad.norm().item()))  # fmt: skip
    assert norms == pytest.approx([1.0] * 3, rel=1e-5)


def order(seed, batches=5, steps=15):
    parameter, seen = torch.nn.Parameter(torch.tensor(1.0)), []

    def loss(batch, progress):
        seen.append(batch["number"])
        return parameter.square()

    run(parameter, loss, steps, [{"number": number} for number in range(batches)], seed=seed)
    return seen


def test_order_of_batches_depends_on_the_seed_only():
    assert order(3) == order(3)
    assert order(3) != order(4)


def test_each_epoch_contains_every_batch_once():
    seen = order(0)
    for start in (0, 5, 10):
        assert sorted(seen[start : start + 5]) == [0, 1, 2, 3, 4]
    assert seen[:5] != seen[5:10] or seen[5:10] != seen[10:15]
    stream = endless(["a"], 0)
    assert [next(stream) for _ in range(3)] == ["a"] * 3


def test_global_generator_is_not_used():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    order(0)
    assert torch.equal(torch.rand(3), expected)


def test_training_works_under_no_grad():
    parameter = torch.nn.Parameter(torch.tensor(1.0))
    with torch.no_grad():
        run(parameter, lambda batch, progress: parameter.square(), 3)
    assert parameter.item() < 1.0


def test_no_batch_raises():
    with pytest.raises(CompressionError, match="at least one batch"):
        run(torch.nn.Parameter(torch.tensor(1.0)), lambda batch, progress: None, 3, batches=[])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_raises_before_the_update(bad):
    parameter, seen = torch.nn.Parameter(torch.tensor(1.0)), []

    def loss(batch, progress):
        seen.append(parameter.item())
        return parameter * (bad if len(seen) == 3 else 1.0)

    with pytest.raises(CompressionError, match="not finite at step 2"):
        run(parameter, loss, 10)
    assert parameter.item() == seen[2]


def test_frozen_parameters_are_not_trained():
    free, frozen = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), False)
    fit([ParameterGroup([free, frozen], 0.1)], [{}],
        lambda batch, progress: (free * frozen).sum(), 5, 0, "test")  # fmt: skip
    assert (free < 1).all()
    assert torch.equal(frozen, torch.ones(2))


def test_parameters_that_the_loss_does_not_use_are_unchanged():
    used, idle = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    fit([ParameterGroup([used, idle], 0.1)], [{}], lambda batch, progress: used.sum(), 5, 0, "test")
    assert (used < 1).all()
    assert torch.equal(idle, torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_updates_smaller_than_an_ulp(dtype):
    steps, rate = 100, 1e-4
    found = torch.nn.Parameter(torch.ones(1, dtype=dtype))
    run(found, lambda batch, progress: found.float().sum(), steps, rate=rate)
    # The sum of all learning rates, rounded to half an ulp below 1.
    moved = sum(rate * min(1, (step + 1) / 10, (steps - step) / 90) for step in range(steps))
    half_ulp = torch.finfo(dtype).eps / 4
    assert abs(found.item() - (1 - moved)) <= half_ulp + 1e-5 * moved
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weight_zeroed_after_a_step_restarts_from_zero(dtype):
    found, seen = torch.nn.Parameter(torch.ones(2, dtype=dtype)), []

    def mask():
        seen.append(found[0].item())
        found.data[0] = 0.0

    run(found, lambda batch, progress: found.float().sum(), 20, rate=0.01, after_step=mask)
    # From zero, one step moves by at most the highest learning rate.
    assert all(abs(value) <= 0.01 * (1 + 2.0**-7) for value in seen[1:])
    assert found[0] == 0
    assert found[1] < 1


def test_gradients_are_cleared():
    found = torch.nn.Parameter(torch.ones(2))
    run(found, lambda batch, progress: found.sum(), 3)
    assert found.grad is None
