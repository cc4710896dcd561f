"""What a student can learn from its teacher, one loss each.

All are means over what is not padding, in float32. ``mask`` ``(texts, positions)`` is 1 there.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

Maps = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values of one attention, each ``(texts, heads, positions, size)``."""


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``values`` ``(texts, positions)`` where the mask is 1."""
    if mask is None or mask.shape != values.shape:
        return values.mean()
    return (values * mask).sum() / mask.sum()


def response_loss(
    student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Hinton et al. 2015, section 2: the teacher's softened probabilities.

    ::

        T^2 * KL(softmax(z_T / T) || softmax(z_S / T))

    Args:
        student, teacher: logits ``(texts, classes)`` or ``(texts, positions, vocabulary)``.
        temperature: ``T``; its square keeps the gradient's size (section 2.1).
        mask: of the positions.
    """
    log_student = (student.float() / temperature).log_softmax(-1)
    log_teacher = (teacher.float() / temperature).log_softmax(-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * masked_mean(divergence, mask)


def feature_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """FitNets (Romero et al. 2014, equation 3): mean squared error of hidden states.

    Args:
        student: hidden states ``(texts, positions, size)``, projected to the teacher's size.
        teacher: hidden states of the same shape.
        mask: of the positions.
    """
    return masked_mean((student.float() - teacher.float()).square().mean(-1), mask)


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention transfer (Zagoruyko & Komodakis 2017, equation 2) on a transformer's own maps.

    ::

        || Q_S / ||Q_S||_2 - Q_T / ||Q_T||_2 ||_2        Q = vec(mean over heads of A)

    for each text, so that numbers of heads may differ; averaged over texts.

    Args:
        student, teacher: probabilities ``(texts, heads, queries, keys)``.
        mask: of the queries; keys of padding have no probability.
    """
    flat = []
    for maps in (student, teacher):
        mean = maps.float().mean(1)
        if mask is not None:
            mean = mean * mask[:, :, None]
        flat.append(F.normalize(mean.flatten(1), dim=1))
    # The root of a sum of squares has no gradient at zero, where the maps agree.
    return ((flat[0] - flat[1]).square().sum(1) + 1e-12).sqrt().mean()


def relation_loss(student: Maps, teacher: Maps, heads: int, mask: Tensor | None = None) -> Tensor:
    """MiniLM's self-attention relations (Wang et al. 2021, "MiniLMv2", equations 2 to 4).

    ::

        R = softmax(X X^T / sqrt(d_r)),  X the queries, keys or values of one relation head
        L = sum over X of mean KL(R_T || R_S)

    The vectors of all heads are joined and split into ``heads`` relation heads, so that neither
    numbers of heads nor widths need to agree.

    Args:
        student, teacher: queries, keys and values of one layer each.
        heads: relation heads; divides both widths.
        mask: of the positions; relations to padding do not count.
    """
    total = torch.zeros((), device=student[0].device)
    for own, other in zip(student, teacher, strict=True):
        relations = [_log_relations(vectors, heads, mask) for vectors in (own, other)]
        divergence = F.kl_div(relations[0], relations[1], reduction="none", log_target=True)
        total = total + masked_mean(divergence.nan_to_num(0.0).sum(-1).mean(1), mask)
    return total


def _log_relations(vectors: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """``(texts, heads, positions, positions)`` logarithms of the relations."""
    joined = vectors.float().transpose(1, 2).flatten(2)
    split = joined.unflatten(2, (heads, -1)).transpose(1, 2)
    scores = split @ split.mT / split.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(scores.dtype).min)
    return scores.log_softmax(-1)
