"""What the history keeps of a run: when and where it was made, and the verdict on each case."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from compression_gates.evals.foreign_text import valid_unicode
from compression_gates.evals.gates.earlier import Record
from compression_gates.evals.gates.gate import Verdict
from compression_gates.evals.statistics.item_values import ItemValues, Key

ENVIRONMENT = ("machine", "device", "python", "torch", "transformers", "package")
"""Attributes of a run on which the numbers of an unchanged model may depend."""


@dataclass(frozen=True)
class Acceptance:
    """The decision that a run is the reference of later runs.

    Attributes:
        time: ISO 8601, UTC.
        forced: whether the run was red.
        reason: why; may be empty for a green run.
    """

    time: str
    forced: bool
    reason: str


@dataclass(frozen=True)
class StoredRun:
    """A run in the history.

    Attributes:
        id: number of the run, from 1; 0 for a run that is not stored yet.
        time: ISO 8601, UTC.
        commit, branch: of the working folder; empty if it is not in a git repository.
        machine, device: processor or GPU, and the device that computed.
        python, torch, transformers, package: versions.
        policy: ``default``, ``strict`` or ``smoke``.
        profile, profile_digest: name of the profile, and the hash of its content.
        exit_status: of pytest; 0 if the run is green.
        decision: the release decision; empty if there was none.
        manifest: what produced the run, see :mod:`evals.report.manifest`.
        acceptance: the latest one; None if the run was never accepted.
    """

    time: str
    commit: str
    branch: str
    machine: str
    device: str
    python: str
    torch: str
    transformers: str
    package: str
    policy: str
    profile: str
    profile_digest: str
    exit_status: int
    decision: str = ""
    manifest: Mapping[str, object] = field(default_factory=dict)
    id: int = 0
    acceptance: Acceptance | None = None

    @property
    def is_green(self) -> bool:
        return self.exit_status == 0

    @property
    def label(self) -> str:
        """``run 20 (2026-11-20, commit 1a2b3c4d)``."""
        name = f"run {self.id}" if self.id else "this run"
        commit = f", commit {self.commit[:8]}" if self.commit else ""
        return f"{name} ({self.time[:10]}{commit})"


@dataclass(frozen=True)
class StoredCase:
    """The verdict on one case of a run.

    Attributes:
        baseline_name: of the model that the candidate is compared with.
        candidate, metric, limit, value, low, high, confidence, n, clusters, outcome, unreliable,
            reason: as in :class:`evals.gates.gate.Verdict`.
        passed: whether the case passed under the policy of the run.
        known_failure: why the case is known to fail; empty if it is not.
        baseline: the metric's value for the baseline by itself; NaN if it has none.
        origin: digests of what it was measured on, as in :class:`evals.gates.earlier.Record`.
        items: the per-item values; None if there are none.
    """

    baseline_name: str
    candidate: str
    metric: str
    limit: float
    value: float
    low: float
    high: float
    confidence: float
    n: int
    clusters: int
    outcome: str
    unreliable: str
    reason: str
    passed: bool
    known_failure: str
    baseline: float
    origin: Mapping[str, str] = field(default_factory=dict)
    items: ItemValues | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        verdict: Verdict,
        baseline_name: str,
        passed: bool,
        known_failure: str = "",
        origin: Mapping[str, str] | None = None,
        items: ItemValues | None = None,
    ) -> "StoredCase":
        """Return the case of a verdict. Texts are made valid Unicode, which a database needs."""
        numbers = {
            name: getattr(verdict, name)
            for name in ("limit", "value", "low", "high", "confidence", "n", "clusters", "baseline")
        }
        texts = {
            name: valid_unicode(getattr(verdict, name))
            for name in ("candidate", "metric", "outcome", "unreliable", "reason")
        }
        return cls(
            valid_unicode(baseline_name),
            passed=passed,
            known_failure=valid_unicode(known_failure),
            origin={name: valid_unicode(text) for name, text in (origin or {}).items()},
            items=items,
            **numbers,
            **texts,
        )

    @property
    def key(self) -> Key:
        return self.candidate, self.metric

    @property
    def record(self) -> Record:
        """The record with which another run is compared."""
        return Record(
            self.candidate, self.metric, self.limit, self.value, self.low, self.high,
            self.confidence, self.n, self.outcome, self.unreliable, self.origin, self.items,
        )  # fmt: skip

    @property
    def has_value(self) -> bool:
        """Whether it has a value, which is neither NaN nor infinite."""
        return self.n > 0 and math.isfinite(self.value)
