"""Losses against their formulas in float64, and against scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from compression_gates.compression.distillation.losses import (
    attention_loss,
    feature_loss,
    relation_loss,
    response_loss,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_response_loss_agrees_with_scipy():
    student, teacher = random(5, 7), random(5, 7, seed=1)
    expected = 9.0 * np.mean(
        entropy(
            softmax(teacher.numpy() / 3.0, axis=1), softmax(student.numpy() / 3.0, axis=1), axis=1
        )
    )
    assert response_loss(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-5)


def test_response_loss_at_high_temperature_is_a_squared_error():
    """Check the high temperature limit of Hinton et al. 2015, equation 4."""
    student, teacher = random(6, 4), random(6, 4, seed=1)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = centred.square().sum(1).mean() / (2 * 4)
    assert response_loss(student, teacher, 1000.0).item() == pytest.approx(
        expected.item(), rel=1e-2
    )


def test_response_and_feature_losses_ignore_padding():
    student, teacher = random(2, 5, 8), random(2, 5, 8, seed=1)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    unpadded = (
        3 * response_loss(student[0, :3], teacher[0, :3], 2.0)
        + 5 * response_loss(student[1], teacher[1], 2.0)
    ) / 8
    assert response_loss(student, teacher, 2.0, mask).item() == pytest.approx(
        unpadded.item(), rel=1e-5
    )
    error = (student - teacher).square().mean(-1)
    expected = (error[0, :3].sum() + error[1].sum()) / 8
    assert feature_loss(student, teacher, mask).item() == pytest.approx(expected.item(), rel=1e-5)


def test_attention_loss_is_equation_2_of_head_averages():
    student, teacher = random(2, 4, 6, 6).softmax(-1), random(2, 2, 6, 6, seed=1).softmax(-1)
    expected = []
    for own, other in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        maps = [m.mean(0).ravel() for m in (own, other)]
        maps = [m / np.linalg.norm(m) for m in maps]
        expected.append(np.linalg.norm(maps[0] - maps[1]))
    assert attention_loss(student, teacher).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_attention_loss_ignores_padding():
    student, teacher = random(1, 2, 6, 6).softmax(-1), random(1, 2, 6, 6, seed=1).softmax(-1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    changed = student.clone()
    changed[:, :, 4:] = changed[:, :, 4:].flip(-1)
    assert attention_loss(student, teacher, mask) == attention_loss(changed, teacher, mask)


def relations(vectors, heads):
    """Return the relations of one text for each relation head, in float64."""
    joined = vectors.double().numpy().transpose(1, 0, 2).reshape(vectors.shape[1], -1)
    parts = np.split(joined, heads, axis=1)
    return [softmax(part @ part.T / part.shape[1] ** 0.5, axis=1) for part in parts]


def test_relation_loss_with_different_heads_and_widths():
    student = tuple(random(1, 2, 5, 4, seed=s) for s in range(3))
    teacher = tuple(random(1, 4, 5, 6, seed=s) for s in range(3, 6))
    expected = 0.0
    for own, other in zip(student, teacher, strict=True):
        pairs = zip(relations(own[0], 2), relations(other[0], 2), strict=True)
        expected += np.mean([entropy(t, s, axis=1) for s, t in pairs])
    assert relation_loss(student, teacher, 2).item() == pytest.approx(expected, rel=1e-5)


def test_relation_loss_ignores_padding():
    maps = [tuple(random(1, 2, 6, 4, seed=s) for s in range(k, k + 3)) for k in (0, 3)]
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    unpadded = [tuple(x[:, :, :4] for x in vectors) for vectors in maps]
    assert relation_loss(*maps, 2, mask).item() == pytest.approx(
        relation_loss(*unpadded, 2).item(), rel=1e-5
    )


@given(st.integers(0, 1000))
def test_losses_of_equal_models_are_zero(seed):
    logits, maps = random(3, 4, 5, seed=seed), random(3, 2, 4, 4, seed=seed).softmax(-1)
    assert abs(response_loss(logits, logits, 2.0).item()) < 1e-6
    assert feature_loss(logits, logits).item() == 0.0
    assert attention_loss(maps, maps).item() < 1e-5
    vectors = (logits[:, None],) * 3
    assert abs(relation_loss(vectors, vectors, 1).item()) < 1e-6


def test_attention_loss_of_equal_maps_has_a_finite_gradient():
    maps = random(1, 2, 4, 4).softmax(-1).requires_grad_()
    attention_loss(maps, maps.detach()).backward()
    assert maps.grad.isfinite().all()
