"""Divergences between rows of log-probabilities, in nats.

::

    KL(p || q) = sum_v p_v (log p_v - log q_v)
    JS(p, q)   = (KL(p || m) + KL(q || m)) / 2,    m = (p + q) / 2,    0 <= JS <= ln 2
"""


def divergences(log_p, log_q):
    """JS, KL(p || q) and KL(q || p) of rows of log-probabilities, in float64.

    Exactly zero for equal rows. Works in log space throughout; an entry that is impossible under
    both counts nothing, one that is impossible under one of them makes that KL infinite.

    Args:
        log_p, log_q: tensors ``(..., vocabulary)`` of natural log-probabilities.

    Returns:
        Three tensors ``(...)`` in nats.
    """
    import torch

    log_p, log_q = log_p.double(), log_q.double()
    p, q = log_p.exp(), log_q.exp()
    gap = log_p - log_q
    gap = torch.where((p == 0) & (q == 0), torch.zeros_like(gap), gap)
    zero = torch.zeros_like(gap)
    kl_pq = torch.where(p == 0, zero, p * gap).sum(-1)
    kl_qp = torch.where(q == 0, zero, -q * gap).sum(-1)
    # log(p / m) = -log((1 + q/p) / 2) = -log1p(expm1(log q - log p) / 2), and is 0 for p = q.
    above = torch.where(p == 0, zero, -p * torch.log1p(torch.expm1(-gap.clamp(min=-700)) / 2))
    below = torch.where(q == 0, zero, -q * torch.log1p(torch.expm1(gap.clamp(max=700)) / 2))
    js = (above + below).sum(-1) / 2
    return js.clamp(min=0.0), kl_pq.clamp(min=0.0), kl_qp.clamp(min=0.0)
