"""Experts of a mixture that no calibration token was routed to, told in one line of a step."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from compression_gates.compression.catalogue import PRUNING, QUANTIZATION
from compression_gates.compression.errors import CompressionWarning
from compression_gates.compression.recipe import Step

_SHOWN = 4
"""Mixtures whose experts are named; of more, their number."""
_DONE = {QUANTIZATION: "were rounded to nearest", PRUNING: "were pruned by magnitude"}
"""What a family does with the weights of an expert whose inputs it never saw."""
_SELECTED = "experts"


class SilentExpert(CompressionWarning):
    """No calibration token was routed to an expert; the message is the name of its weight."""


@contextmanager
def silent_experts(notes: list[str], step: Step) -> Iterator[None]:
    """Adds one note on all experts of which :class:`SilentExpert` warns; passes other warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    silent: dict[str, None] = {}
    for warning in caught:
        if issubclass(warning.category, SilentExpert):
            silent[str(warning.message)] = None
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if silent:
        notes.append(f"{step.name}: {_summary(list(silent), step.entry.family)}")


def _summary(weights: list[str], family: str) -> str:
    mixtures: dict[str, dict[str, None]] = {}
    for weight in weights:
        mixture, number = expert_of(weight)
        mixtures.setdefault(mixture, {})[number] = None
    count = sum(map(len, mixtures.values()))
    named = [f"{name} {', '.join(numbers)}" for name, numbers in mixtures.items()]
    if len(named) > _SHOWN:
        named[_SHOWN:] = [f"and in {len(named) - _SHOWN} more"]
    verb = _DONE.get(family, "were left as they are")
    return (
        f"no calibration token was routed to {count} expert{'s' * (count != 1)}, which {verb}: "
        f"{'; '.join(named)}"
    )


def expert_of(weight: str) -> tuple[str, str]:
    """The mixture that holds an expert's weight, and the expert's number.

    ``MIXTURE.PARAMETER.NUMBER`` of a stacked weight, or ``MIXTURE.MODULE.weight.NUMBER`` where each
    stack is a module (JetMoe); ``MIXTURE.NUMBER.LAYER`` of a module's, where the number may stand
    in a name: ``expert_3``.
    """
    inside = re.fullmatch(rf"(.*\.{_SELECTED})\.(?:\w*?)(\d+)\.[^.]*[a-z].*", weight)
    if inside:
        return inside[1], inside[2]
    path, _, number = weight.rpartition(".")
    return path.removesuffix(".weight").rpartition(".")[0], number
