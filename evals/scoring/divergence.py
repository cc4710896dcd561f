"""Divergences between rows of log-probabilities, in nats.

::

    KL(p || q) = sum_v p_v (log p_v - log q_v)
    JS(p, q)   = (KL(p || m) + KL(q || m)) / 2,    m = (p + q) / 2,    0 <= JS <= ln 2
"""

import numpy as np


@np.errstate(all="ignore")
def divergences(log_p, log_q):
    """Return JS(p, q), KL(p || q) and KL(q || p) of rows of log-probabilities, in float64.

    All three are exactly zero for equal rows. An entry with probability zero in both rows
    contributes nothing. An entry with probability zero in ``q`` alone makes KL(p || q) infinite,
    and the other way round. The computation stays in log space.

    Args:
        log_p, log_q: tensors or numpy arrays ``(..., vocabulary)`` of natural log-probabilities.

    Returns:
        Three tensors or arrays ``(...)`` in nats.
    """
    if isinstance(log_p, np.ndarray):
        xp = np
        log_p, log_q = log_p.astype(np.float64), log_q.astype(np.float64)
    else:
        import torch as xp

        log_p, log_q = log_p.double(), log_q.double()
    p, q = xp.exp(log_p), xp.exp(log_q)
    log_ratio = xp.where((p == 0) & (q == 0), 0.0, log_p - log_q)
    kl_pq = xp.where(p == 0, 0.0, p * log_ratio).sum(-1)
    kl_qp = xp.where(q == 0, 0.0, -q * log_ratio).sum(-1)
    # log(p / m) = -log((1 + q/p) / 2) = -log1p(expm1(log q - log p) / 2), which is 0 for p = q.
    log_m_over_p = xp.log1p(xp.expm1(-xp.clip(log_ratio, -700, None)) / 2)
    log_m_over_q = xp.log1p(xp.expm1(xp.clip(log_ratio, None, 700)) / 2)
    kl_pm = xp.where(p == 0, 0.0, -p * log_m_over_p)
    kl_qm = xp.where(q == 0, 0.0, -q * log_m_over_q)
    js = (kl_pm + kl_qm).sum(-1) / 2
    return tuple(xp.clip(value, 0.0, None) for value in (js, kl_pq, kl_qp))
