"""One decision over many gates, with a bounded rate of false alarms.

If each of 100 gates fails by chance in one run of 40, an unchanged model fails two or three gates
in every run. A family raises an alarm only for gates that are significant after correction for
multiple testing.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from compression_gates.evals.errors import listed
from compression_gates.evals.gates.gate import INCONCLUSIVE, NOT_JUDGED, Verdict
from compression_gates.evals.metrics.units import counted

HOLM, BENJAMINI_HOCHBERG = "holm", "bh"
FALSE_ALARM_RATE = 0.01
"""Share of the runs of an unchanged model that may raise an alarm."""
_ERROR, _FAILED, _NOT_PROVEN, _NOT_JUDGED = "error", "failed", "not proven", "not judged"


def alarms(p_values: ArrayLike, method: str = HOLM, rate: float = FALSE_ALARM_RATE) -> np.ndarray:
    """Return for which gates the null hypothesis that the limit is kept is rejected, corrected for
    multiple testing.

    ``holm`` bounds the family-wise error rate: at most ``rate`` of the runs have any false alarm,
    for any dependence between gates (Holm 1979). ``bh`` bounds the false discovery rate: at most
    ``rate`` of the alarms are false, in expectation, for independent or positively dependent gates
    (Benjamini & Hochberg 1995). It has more power.

    Args:
        p_values: ``(gates,)``; NaN, of a gate whose value is not a number, is always rejected and
            does not count in the correction.
        method: ``holm`` or ``bh``.
        rate: bound of the error rate.

    Returns:
        ``(gates,)`` booleans.
    """
    from scipy.stats import false_discovery_control

    p_values = np.asarray(p_values, dtype=np.float64)
    rejected = np.isnan(p_values)
    known = p_values[~rejected]
    if known.size:
        adjusted = _holm(known) if method == HOLM else false_discovery_control(known)
        rejected[~rejected] = adjusted <= rate
    return rejected


def _holm(p_values: np.ndarray) -> np.ndarray:
    """Return adjusted p-values, ``max over j <= i of (m - j + 1) p_(j)``, at most 1."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(factors * p_values[order]).clip(max=1.0)
    return adjusted


def family_summary(cases: Iterable[tuple[Verdict, bool]], method: str = HOLM) -> str:
    """Return a line with the failed gates, and with those that are significant among all gates,
    each with the strongest evidence first.

    Cases that ended in an error and gates that were not judged are not part of the family.

    Args:
        cases: verdicts, and whether their cases passed.
        method: as for :func:`alarms`.
    """
    cases = sorted(cases, key=lambda case: case[0].evidence_key)
    failed = {kind: [] for kind in (_ERROR, _FAILED, _NOT_PROVEN, _NOT_JUDGED)}
    for verdict, passed in cases:
        if not passed:
            failed[_kind(verdict)].append(verdict)
    parts = [f"{len(group)} {kind}: {_named(group)}" for kind, group in failed.items() if group]
    judged = [v for v, _ in cases if _kind(v) not in (_ERROR, _NOT_JUDGED)]
    rejected = alarms([verdict.p for verdict in judged], method)
    alarmed = [verdict for verdict, alarm in zip(judged, rejected, strict=True) if alarm]
    bound = f"({family_bound(method)})"
    if alarmed:
        parts.append(f"ALARM {bound}: {_named(alarmed)}")
    elif parts:
        parts.append(f"none stands out among {counted(len(judged), 'measured gate')} {bound}")
    else:
        parts.append(f"no alarm over {counted(len(judged), 'gate')} {bound}")
    without_interval = sum(not verdict.has_interval for verdict in judged)
    if without_interval and not alarmed:
        verb = "rests" if without_interval == 1 else "rest"
        parts.append(f"{without_interval} of them {verb} on one document or none")
    return "; ".join(parts)


def _kind(verdict: Verdict) -> str:
    """Return the kind of failure of a case that failed."""
    if verdict.outcome == NOT_JUDGED:
        return _NOT_JUDGED
    if verdict.n < 1:
        return _ERROR
    return _NOT_PROVEN if verdict.outcome == INCONCLUSIVE and verdict.met else _FAILED


def family_bound(method: str, period: int = 1, run: str = "run") -> str:
    """Return what a correction for multiple testing bounds, in words.

    Args:
        method: ``holm`` or ``bh``.
        period: number of runs among which :data:`FALSE_ALARM_RATE` is divided: 1, or a month.
        run: word for a run.
    """
    if method == HOLM:
        among = "runs" if period == 1 else f"months of {period} {run}s"
        return f"Holm: false alarms in at most {FALSE_ALARM_RATE:.0%} of {among}"
    if period == 1:
        return f"Benjamini-Hochberg: at most {FALSE_ALARM_RATE:.0%} of them false"
    rate = FALSE_ALARM_RATE / period
    return f"Benjamini-Hochberg: at most {rate:.3%} of a {run}'s alarms false"


def _named(verdicts: Sequence[Verdict]) -> str:
    return listed([f"{verdict.candidate} {verdict.metric}" for verdict in verdicts])
