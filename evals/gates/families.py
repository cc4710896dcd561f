"""One decision over many gates, with a bounded rate of false alarms.

Of 100 gates that are each wrong in 1 run of 40, an unchanged model trips two or three every night.
A family of gates raises an alarm only for those whose p-values stand out among all of them.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.errors import listed
from compression_gates.evals.gates.gate import INCONCLUSIVE, NOT_JUDGED, Verdict
from compression_gates.evals.metrics.units import counted

HOLM, BENJAMINI_HOCHBERG = "holm", "bh"
RATE = 0.01
"""Runs of an unchanged model that may raise an alarm."""
_ERROR, _FAILED, _NOT_PROVEN, _NOT_JUDGED = "error", "failed", "not proven", "not judged"


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


def told(cases: Iterable[tuple[Verdict, bool]], method: str = HOLM) -> str:
    """What failed, and which gates stand out when all that were measured are judged together.

    Cases that ended in an error and gates that were not judged are no part of the family.

    Args:
        cases: verdicts, and whether their cases passed.
        method: as for :func:`alarms`.
    """
    cases = list(cases)
    failed = {kind: [] for kind in (_ERROR, _FAILED, _NOT_PROVEN, _NOT_JUDGED)}
    for verdict, passed in cases:
        if not passed:
            failed[_kind(verdict)].append(verdict)
    parts = [f"{len(own)} {kind}: {_named(own)}" for kind, own in failed.items() if own]
    judged = [v for v, _ in cases if _kind(v) not in (_ERROR, _NOT_JUDGED)]
    broken = alarms([verdict.p for verdict in judged], method)
    alarmed = [verdict for verdict, alarm in zip(judged, broken, strict=True) if alarm]
    by = f"({_bound(method)})"
    if alarmed:
        parts.append(f"ALARM {by}: {_named(alarmed)}")
    elif parts:
        parts.append(f"none stands out among {counted(len(judged), 'measured gate')} {by}")
    else:
        parts.append(f"no alarm over {counted(len(judged), 'gate')} {by}")
    unbounded = sum(not math.isfinite(verdict.high - verdict.low) for verdict in judged)
    if unbounded and not alarmed:
        parts.append(f"{unbounded} of them rest on one document or none")
    return "; ".join(parts)


def _kind(verdict: Verdict) -> str:
    """What a verdict is, where its case failed."""
    if verdict.outcome == NOT_JUDGED:
        return _NOT_JUDGED
    if verdict.n < 1:
        return _ERROR
    return _NOT_PROVEN if verdict.outcome == INCONCLUSIVE and verdict.met else _FAILED


def _bound(method: str) -> str:
    if method == HOLM:
        return f"Holm: false alarms in at most {RATE:.0%} of runs"
    return f"Benjamini-Hochberg: at most {RATE:.0%} of them false"


def _named(verdicts: Sequence[Verdict]) -> str:
    return listed([f"{verdict.candidate} {verdict.metric}" for verdict in verdicts])
