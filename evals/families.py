"""One decision over many gates, with a bounded rate of false alarms.

Of 100 gates that are each wrong in 1 run of 40, an unchanged model trips two or three every night.
A family of gates raises an alarm only for those whose p-values stand out among all of them.
"""

import numpy as np
from numpy.typing import ArrayLike

HOLM, BENJAMINI_HOCHBERG = "holm", "bh"
RATE = 0.01
"""Runs of an unchanged model that may raise an alarm."""


def alarms(p_values: ArrayLike, method: str = HOLM, rate: float = RATE) -> np.ndarray:
    """Which hypotheses "this promise is kept" fall, taken together.

    ``holm``: at most ``rate`` of the runs have any false alarm, however gates depend on each
    other (Holm 1979). ``bh``: at most ``rate`` of the alarms are false, in expectation, for
    independent or positively dependent gates (Benjamini & Hochberg 1995); finds more.

    Args:
        p_values: ``(gates,)``; NaN, of a gate that measured no number, is always an alarm and
            takes no part in the correction of the others.
        method: ``holm`` or ``bh``.
        rate: what is bounded.

    Returns:
        ``(gates,)`` booleans.
    """
    from scipy.stats import false_discovery_control

    p_values = np.asarray(p_values, dtype=np.float64)
    found = np.isnan(p_values)
    known = p_values[~found]
    if known.size:
        adjusted = _holm(known) if method == HOLM else false_discovery_control(known)
        found[~found] = adjusted <= rate
    return found


def _holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values: ``max over j <= i of (m - j) p_(j)``, at most 1."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(factors * p_values[order]).clip(max=1.0)
    return adjusted
