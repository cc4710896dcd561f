"""Divergences between rows of log-probabilities, in nats.

::

    KL(p || q) = sum_v p_v (log p_v - log q_v)
    JS(p, q)   = (KL(p || m) + KL(q || m)) / 2,    m = (p + q) / 2,    0 <= JS <= ln 2
"""


def divergences(log_p, log_q):
    """Return JS(p, q), KL(p || q) and KL(q || p) of rows of log-probabilities, in float64.

    All three are exactly zero for equal rows. An entry with probability zero in both rows
    contributes nothing. An entry with probability zero in ``q`` alone makes KL(p || q) infinite,
    and the other way round. The computation stays in log space.

    Args:
        log_p, log_q: tensors ``(..., vocabulary)`` of natural log-probabilities.

    Returns:
        Three tensors ``(...)`` in nats.
    """
    import torch

    log_p, log_q = log_p.double(), log_q.double()
    p, q = log_p.exp(), log_q.exp()
    log_ratio = log_p - log_q
    log_ratio = torch.where((p == 0) & (q == 0), torch.zeros_like(log_ratio), log_ratio)
    zero = torch.zeros_like(log_ratio)
    kl_pq = torch.where(p == 0, zero, p * log_ratio).sum(-1)
    kl_qp = torch.where(q == 0, zero, -q * log_ratio).sum(-1)
    # log(p / m) = -log((1 + q/p) / 2) = -log1p(expm1(log q - log p) / 2), which is 0 for p = q.
    log_m_over_p = torch.log1p(torch.expm1(-log_ratio.clamp(min=-700)) / 2)
    log_m_over_q = torch.log1p(torch.expm1(log_ratio.clamp(max=700)) / 2)
    kl_pm = torch.where(p == 0, zero, -p * log_m_over_p)
    kl_qm = torch.where(q == 0, zero, -q * log_m_over_q)
    js = (kl_pm + kl_qm).sum(-1) / 2
    return js.clamp(min=0.0), kl_pq.clamp(min=0.0), kl_qp.clamp(min=0.0)
