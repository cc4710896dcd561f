"""The manifest of a run: everything that produced its numbers.

It contains hashes, versions and names that the user gave, and nothing private: no user or host
name, and no path that the user did not give.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from compression_gates.evals.models.device import cores, cpu_model, timed_on
from compression_gates.evals.report.report import Entry
from compression_gates.evals.store.provenance import PACKAGES, code_version

DISTRIBUTION = "compression-gates"


@dataclass(frozen=True)
class RunSettings:
    """What the caller knows of a run.

    Attributes:
        profile, profile_digest: name of the profile, and the hash of its content.
        policy: ``default``, ``strict`` or ``smoke``.
        device, dtype: as given.
        data: digest of each data set, by its name.
        recipes: of the candidates that the run made, by their names.
        seeds: of these recipes' steps, by the names of the candidates.
        protocols: how metrics were measured, one line each.
    """

    profile: str
    profile_digest: str
    policy: str
    device: str
    dtype: str
    data: Mapping[str, str] = field(default_factory=dict)
    recipes: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, Sequence[int]] = field(default_factory=dict)
    protocols: Sequence[str] = ()


def manifest_of(entries: Iterable[Entry], settings: RunSettings) -> dict[str, object]:
    """Return the manifest as a JSON object.

    Args:
        entries: of the run, from which the models and their kernels are taken.
        settings: the rest.
    """
    entries = list(entries)
    candidates: dict[str, dict[str, object]] = {}
    for entry in entries:
        name = entry.verdict.candidate
        candidate = candidates.setdefault(name, {"baseline": entry.group})
        facts = {
            "digest": entry.origin.get("candidate", ""),
            "form": entry.form,
            "recipe": settings.recipes.get(name, ""),
            "kernel": entry.kernel,
        }
        candidate |= {key: value for key, value in facts.items() if value}
        if seeds := settings.seeds.get(name):
            candidate["seeds"] = list(seeds)
    return {
        "profile": {"name": settings.profile, "digest": settings.profile_digest},
        "policy": settings.policy,
        "baselines": {
            entry.group: {"digest": entry.origin["baseline"]}
            for entry in entries
            if "baseline" in entry.origin
        },
        "candidates": candidates,
        "data": dict(settings.data),
        "protocols": list(settings.protocols),
        "versions": versions(),
        "scoring_code": code_version(),
        "device": settings.device,
        "dtype": settings.dtype,
        "machine": machine(settings.device),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages on which measurements depend."""
    names = (DISTRIBUTION, *PACKAGES, "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version_or_empty(name) for name in names}}


def version_or_empty(distribution: str) -> str:
    """Return the version of an installed distribution; empty if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def machine(device: str) -> dict[str, object]:
    """Return the hardware on which a run was made, without the name of the host."""
    return {
        "processor": cpu_model(),
        "cores": cores(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "device": ", ".join(map(str, timed_on(device))),
    }
