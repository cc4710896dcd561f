"""Report experts of a mixture to which no calibration token was routed, in one note per step."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from compression_gates.compression.catalogue import PRUNING, QUANTIZATION
from compression_gates.compression.errors import CompressionWarning
from compression_gates.compression.recipe import Step

_MAX_MIXTURES = 4
"""Mixtures whose experts are named in a note; further ones are only counted."""
_FALLBACK = {QUANTIZATION: "were rounded to nearest", PRUNING: "were pruned by magnitude"}
"""What each family does with the weights of such an expert."""


class UnroutedExpert(CompressionWarning):
    """No calibration token was routed to an expert; the message is the name of its weight."""


@contextmanager
def unrouted_experts(notes: list[str], step: Step) -> Iterator[None]:
    """Collect :class:`UnroutedExpert` warnings into one note, and pass on other warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    unrouted: dict[str, None] = {}
    for warning in caught:
        if issubclass(warning.category, UnroutedExpert):
            unrouted[str(warning.message)] = None
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if unrouted:
        notes.append(f"{step.name}: {_summary(list(unrouted), step.entry.family)}")


def _summary(weights: list[str], family: str) -> str:
    mixtures: dict[str, dict[str, None]] = {}
    for weight in weights:
        mixture, number = expert_of(weight)
        mixtures.setdefault(mixture, {})[number] = None
    count = sum(map(len, mixtures.values()))
    named = [f"{name} {', '.join(numbers)}" for name, numbers in mixtures.items()]
    if len(named) > _MAX_MIXTURES:
        named[_MAX_MIXTURES:] = [f"and in {len(named) - _MAX_MIXTURES} more mixtures"]
    verb = _FALLBACK.get(family, "remain uncompressed")
    return (
        f"no calibration token was routed to {count} expert{'s' * (count != 1)}, which {verb}: "
        f"{'; '.join(named)}"
    )


def expert_of(weight: str) -> tuple[str, str]:
    """Return the mixture that contains the weight of an expert, and the expert's number.

    Weights are named ``MIXTURE.PARAMETER.NUMBER`` if they are slices of a parameter, or
    ``MIXTURE.MODULE.weight.NUMBER`` if each such parameter has a module (JetMoe). Experts that are
    modules are named ``MIXTURE.NUMBER.LAYER``; the number can be part of a name: ``expert_3``.
    """
    inside = re.fullmatch(r"(.*\.experts)\.(?:\w*?)(\d+)\.[^.]*[a-z].*", weight)
    if inside:
        return inside[1], inside[2]
    path, _, number = weight.rpartition(".")
    return path.removesuffix(".weight").rpartition(".")[0], number
