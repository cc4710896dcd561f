"""The result of an attribution, and the lines that describe it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from compression_gates.evals.foreign_text import on_one_line

SHOWN = 3
"""Largest number of modules, and of remarkable tensors, that are named on the screen."""
SMALLEST_SHOWN = 0.005
"""Smallest share of a module that is named on the screen, except for the largest one."""
LARGE_REST = 0.1
"""Share that modules do not explain, or explain twice, above which the worst block is named."""
OVERLAP = "the effects of modules overlap or cancel"


@dataclass(frozen=True)
class Share:
    """What one module of the candidate changes in the baseline.

    Attributes:
        name: name of the module, or of a block that was not divided.
        divergence: mean divergence of the baseline with this module from the baseline, in nats;
            NaN if the predictions are not finite.
        share: of the divergence of the whole candidate; NaN if either is not finite.
    """

    name: str
    divergence: float
    share: float


@dataclass(frozen=True)
class Attribution:
    """Where the divergence of a candidate from its baseline comes from.

    Attributes:
        modules: the modules, the one that changes most first.
        blocks: the blocks whose modules are among these, as a whole.
        divergence: mean divergence of the whole candidate on the same data, in nats.
        passes: number of passes over the data.
        data: name of the data set.
        tokens: number of tokens of its first items, which were used.
        configuration: differences between the configurations that change the computation, which
            swapped modules cannot show.
        not_swapped: modules that could not be swapped, with the reason.
        hints: how tensors stand out among those of their kind.
        tensors: the comparison of each tensor of the module that changes most with the baseline's;
            see :class:`compression_gates.evals.attribution.tensor_comparison.TensorComparison`.
        reason: why nothing was found; empty otherwise.
        limited: what was left out because of the limits of passes and time.
    """

    modules: tuple[Share, ...] = ()
    blocks: tuple[Share, ...] = ()
    divergence: float = math.nan
    passes: int = 0
    data: str = ""
    tokens: int = 0
    configuration: tuple[str, ...] = ()
    not_swapped: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    tensors: tuple[Mapping[str, object], ...] = ()
    reason: str = ""
    limited: tuple[str, ...] = ()

    @property
    def unexplained(self) -> float:
        """The share of the divergence that no single module explains; negative if the shares add up
        to more than the whole."""
        return 1 - sum(module.share for module in self.modules)

    @property
    def worst(self) -> str:
        """The name of the module that changes most; empty if nothing was found."""
        return self.modules[0].name if self.modules else ""

    def as_dict(self) -> dict[str, object]:
        """Return the attribution as a plain mapping for a report, with its lines."""
        lines = {"where": self.where(), "weights": self.weights()}
        return {**asdict(self), "unexplained": self.unexplained, **lines}

    def to_json(self) -> str:
        """Return a text that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Attribution":
        """Return the attribution that :meth:`to_json` wrote.

        Raises:
            ValueError: ``text`` is not an attribution.
        """
        try:
            fields = json.loads(text)
            fields |= {name: tuple(v) for name, v in fields.items() if isinstance(v, list)}
            for name in ("modules", "blocks"):
                fields[name] = tuple(Share(**share) for share in fields[name])
            return Attribution(**fields)
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("not an attribution") from error

    def where(self) -> list[str]:
        """Return one line for each cause."""
        lines = [f"{text}; this may not show in single modules" for text in self.configuration]
        if self.reason:
            lines.append(f"not found: {self.reason}")
        elif self.modules:
            lines.append(self._shares())
        lines += [f"not swapped: {text}" for text in self.not_swapped[:SHOWN]]
        if len(self.not_swapped) > SHOWN:
            lines.append(f"not swapped: {len(self.not_swapped) - SHOWN} more modules")
        lines += self.limited
        return [on_one_line(line) for line in lines]

    def _shares(self) -> str:
        if not math.isfinite(self.unexplained):
            broken = [m.name for m in self.modules if not math.isfinite(m.divergence)]
            if not broken:
                return (
                    "The candidate's predictions are not finite, but no single module alone "
                    "causes this"
                )
            more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
            names = ", ".join(broken[:SHOWN])
            return f"with {names}{more} alone, the baseline's predictions are not finite"
        shown = [m for m in self.modules[:SHOWN] if m.share >= SMALLEST_SHOWN] or self.modules[:1]
        rest = sum(m.share for m in self.modules[len(shown) :])
        named = ", ".join(f"{m.name} {m.share:.0%}" for m in shown)
        others = f"; all other modules {rest:.0%}" if len(self.modules) > len(shown) else ""
        block = ""
        if self.blocks and abs(self.unexplained) > LARGE_REST:
            block = f"; {self.blocks[0].name} as a whole {self.blocks[0].share:.0%}"
        return f"{named} of the divergence{others}; {self._unexplained()}{block}"

    def _unexplained(self) -> str:
        if self.unexplained < -SMALLEST_SHOWN:
            total = f"{1 - self.unexplained:.0%}"
            return f"the shares add up to {total}, because {OVERLAP}"
        return f"{abs(self.unexplained):.0%} is not explained by single modules"

    def weights(self) -> list[str]:
        """Return a line for each of the tensors that stand out most."""
        return [on_one_line(line) for line in self.hints[:SHOWN]]


def not_found(reason: str, configuration: Sequence[str] = ()) -> Attribution:
    """Return an attribution that found nothing, for the given reason."""
    return Attribution(configuration=tuple(configuration), reason=reason)
