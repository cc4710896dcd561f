"""The losses by which a student learns from its teacher.

Losses are computed in float32 and averaged over the positions where ``mask`` ``(texts, positions)``
is 1, or over all positions if it is None.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

QKV = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values of one layer, each ``(texts, heads, positions, size)``."""


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of ``values`` ``(texts, positions)`` where the mask is 1.

    A mask of another shape is ignored: values of whole texts have no positions.
    """
    if mask is None or mask.shape != values.shape:
        return values.mean()
    return (values * mask).sum() / mask.sum()


def response_loss(
    student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Return the divergence from the teacher's soft targets (Hinton et al. 2015, section 2).

    ::

        T^2 * KL(softmax(z_T / T) || softmax(z_S / T))

    Args:
        student, teacher: logits ``(texts, classes)`` or ``(texts, positions, vocabulary)``.
        temperature: ``T``. The factor ``T^2`` keeps the size of the gradient (section 2.1).
        mask: of the positions.
    """
    log_student = (student.float() / temperature).log_softmax(-1)
    log_teacher = (teacher.float() / temperature).log_softmax(-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * masked_mean(divergence, mask)


def feature_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error of hidden states (FitNets, Romero et al. 2014, equation 3).

    Args:
        student: hidden states ``(texts, positions, size)``, projected to the teacher's size.
        teacher: hidden states of the same shape.
        mask: of the positions.
    """
    return masked_mean((student.float() - teacher.float()).square().mean(-1), mask)


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the distance of attention maps (Zagoruyko & Komodakis 2017, equation 2).

    It is computed for each text from maps that are averaged over heads, so that the numbers of
    heads may differ, and averaged over texts::

        || Q_S / ||Q_S||_2 - Q_T / ||Q_T||_2 ||_2        Q = vec(mean over heads of A)

    Args:
        student, teacher: attention probabilities ``(texts, heads, queries, keys)``.
        mask: of the queries; keys of padding have probability zero.
    """
    flat = []
    for maps in (student, teacher):
        mean = maps.float().mean(1)
        if mask is not None:
            mean = mean * mask[:, :, None]
        flat.append(F.normalize(mean.flatten(1), dim=1))
    # The constant keeps the gradient finite where the maps are equal.
    return ((flat[0] - flat[1]).square().sum(1) + 1e-12).sqrt().mean()


def relation_loss(student: QKV, teacher: QKV, heads: int, mask: Tensor | None = None) -> Tensor:
    """Return the divergence of self-attention relations (Wang et al. 2021, equations 2 to 4).

    ::

        R = softmax(X X^T / sqrt(d_r)),  X the queries, keys or values of one relation head
        L = sum over X of mean KL(R_T || R_S)

    The vectors of all heads are concatenated and split into ``heads`` relation heads, so that the
    numbers of heads and the widths may differ.

    Args:
        student, teacher: queries, keys and values of one layer each.
        heads: number of relation heads; it divides both widths.
        mask: of the positions; relations to masked positions are ignored.
    """
    total = torch.zeros((), device=student[0].device)
    for pair in zip(student, teacher, strict=True):
        log_student, log_teacher = (_log_relations(vectors, heads, mask) for vectors in pair)
        divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
        total = total + masked_mean(divergence.nan_to_num(0.0).sum(-1).mean(1), mask)
    return total


def _log_relations(vectors: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Return the logarithms ``(texts, heads, positions, positions)`` of the relations ``R``."""
    concatenated = vectors.float().transpose(1, 2).flatten(2)
    split = concatenated.unflatten(2, (heads, -1)).transpose(1, 2)
    scores = split @ split.mT / split.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(scores.dtype).min)
    return scores.log_softmax(-1)
