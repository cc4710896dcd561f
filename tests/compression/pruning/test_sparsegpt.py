"""SparseGPT against a direct float64 solution without Cholesky factors or blocks."""

import pytest
import torch

from compression_gates.compression.calibration.hessian import DAMPING, inverse_factor
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.pruning.patterns import NofM, Unstructured
from compression_gates.compression.pruning.sparsegpt import BLOCK, sparsegpt


def hessian_of(inputs: torch.Tensor) -> torch.Tensor:
    return 2 * inputs.T @ inputs / len(inputs)


def reference(weight, hessian, pattern, block):
    """Return the weight pruned by optimal brain surgery, column by column, in float64.

    The inverse Hessian of the remaining columns is computed anew for each column. The update for a
    pruned weight is ``-w_j / [H^-1]_jj * [H^-1]_j``.
    """
    weight = weight.double().clone()
    hessian = hessian.double().clone()
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    rows, columns = weight.shape
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for j in range(columns):
        if isinstance(pattern, Unstructured) and j % block == 0:
            stop = min(j + block, columns)
            cost = torch.stack([weight[:, k] ** 2 / inverses[k][0, 0] for k in range(j, stop)], 1)
            count = round(pattern.sparsity * rows * stop) - round(pattern.sparsity * rows * j)
            order = cost.flatten().argsort(stable=True)[:count]
            for at in order.tolist():
                mask[at // (stop - j), j + at % (stop - j)] = True
        if isinstance(pattern, NofM) and j % pattern.m == 0:
            group = range(j, j + pattern.m)
            cost = torch.stack([weight[:, k] ** 2 / inverses[k][0, 0] for k in group], 1)
            order = cost.argsort(dim=1, stable=True)[:, : pattern.m - pattern.n]
            for row in range(rows):
                mask[row, order[row] + j] = True
        for row in range(rows):
            if mask[row, j]:
                inverse = inverses[j]
                weight[row, j:] -= weight[row, j] / inverse[0, 0] * inverse[0]
                weight[row, j] = 0.0
    return weight


@pytest.fixture
def layer():
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(200, 24, generator=generator) @ torch.randn(24, 24, generator=generator)
    return torch.randn(10, 24, generator=generator), hessian_of(inputs)


@pytest.mark.parametrize("pattern", [Unstructured(0.5), Unstructured(0.3), NofM(2, 4), NofM(4, 8)])
@pytest.mark.parametrize("block", [8, 24])
def test_result_agrees_with_float64_reference(layer, pattern, block):
    weight, hessian = layer
    expected = reference(weight, hessian, pattern, block)
    result = sparsegpt(weight, hessian, pattern, block=block)
    assert torch.equal(result == 0, expected == 0)
    assert torch.allclose(result.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pattern", [Unstructured(0.5), NofM(2, 4), NofM(4, 8), NofM(5, 20)])
def test_masks_of_several_blocks_equal_the_float64_reference(pattern):
    generator = torch.Generator().manual_seed(6)
    inputs = torch.randn(900, 320, generator=generator)
    inputs += inputs @ torch.randn(320, 320, generator=generator) / 320**0.5
    weight, hessian = torch.randn(16, 320, generator=generator), hessian_of(inputs)
    block = BLOCK // pattern.m * pattern.m if isinstance(pattern, NofM) else BLOCK
    expected = reference(weight, hessian, pattern, block)
    result = sparsegpt(weight, hessian, pattern)
    assert torch.equal(result == 0, expected == 0)
    assert torch.allclose(result.double(), expected, rtol=1e-4, atol=1e-5)


def test_weight_is_not_changed_in_place(layer):
    weight, hessian = layer
    for original in (weight, weight.T.contiguous().T):
        before = original.clone()
        sparsegpt(original, hessian, Unstructured(0.5))
        assert torch.equal(original, before)


def test_inverse_factor_squares_to_the_inverse_of_the_damped_hessian(layer):
    _, hessian = layer
    upper = inverse_factor(hessian).double()
    damped = hessian.double()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    assert torch.allclose(upper.T @ upper, torch.linalg.inv(damped), rtol=1e-3, atol=1e-6)


def test_error_is_between_the_optimum_for_its_mask_and_masking_alone(layer):
    weight, hessian = (tensor.double() for tensor in layer)
    result = sparsegpt(*layer, Unstructured(0.5)).double()

    def error(other):
        gap = weight - other
        return float(((gap @ hessian) * gap).sum())

    best = torch.zeros_like(weight)
    for row, kept in enumerate(result != 0):
        best[row, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight[row])
    assert error(best) <= error(result) < error(weight.masked_fill(result == 0, 0.0))


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_sparsity_zero_and_one(layer, sparsity):
    weight, hessian = layer
    result = sparsegpt(weight, hessian, Unstructured(sparsity))
    assert torch.equal(result, weight * (1 - sparsity))


@pytest.mark.parametrize("sparsity", [0.1, 1 / 3, 0.61])
@pytest.mark.parametrize("block", [5, 7, 128])
def test_number_of_zeros_is_exact_over_all_blocks(layer, sparsity, block):
    weight, hessian = layer
    result = sparsegpt(weight, hessian, Unstructured(sparsity), block=block)
    assert int((result == 0).sum()) == round(sparsity * weight.numel())


def test_large_weights_of_a_dead_feature_are_kept_unchanged(layer):
    weight, hessian = layer
    dead = 7
    hessian = hessian.clone()
    hessian[dead], hessian[:, dead] = 0.0, 0.0
    weight = weight.clone()
    weight[:, dead] *= 1000
    result = sparsegpt(weight, hessian, Unstructured(0.3))
    assert result.isfinite().all()
    assert torch.equal(result[:, dead], weight[:, dead])


def test_indefinite_hessian_is_damped_more_with_a_warning():
    hessian = torch.full((8, 8), 1.0)
    hessian[0, 1] = hessian[1, 0] = 1.05  # indefinite at the default damping
    with pytest.warns(UserWarning, match="needed damping"):
        upper = inverse_factor(hessian)
    assert upper.isfinite().all()


def test_hessian_that_no_damping_makes_definite_raises():
    hessian = torch.eye(4)
    hessian[0, 1] = hessian[1, 0] = 1e6
    with pytest.raises(CompressionError, match="factorization of the Hessian fails"):
        inverse_factor(hessian)


def test_zero_hessian_raises():
    with pytest.raises(CompressionError, match="no calibration input reached"):
        sparsegpt(torch.randn(2, 4), torch.zeros(4, 4), Unstructured(0.5))
