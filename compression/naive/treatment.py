"""What was done to each layer of a checkpoint, as a record that can be stored."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from compression_gates.compression.recipe import Recipe, Step


@dataclass(frozen=True)
class Treatment:
    """What was done to one layer.

    Attributes:
        zeros: number of weights that were pruned. Naive pruning and quantization of the baseline
            leave as many zeros as the layer has.
        pattern: ``(n, m)``, if at most n of every m consecutive weights are not zero.
        rank: rank of the weight, if it is lower than that of the baseline's.
        factored: whether the layer was replaced by two factors of this rank.
        quantization: step of a recipe that rounds to nearest on the layer's grid, such as
            ``rtn-int4,group=32``; empty if the layer was not quantized.
    """

    zeros: int = 0
    pattern: tuple[int, int] | None = None
    rank: int | None = None
    factored: bool = False
    quantization: str = ""

    def __bool__(self) -> bool:
        return bool(self.zeros or self.rank or self.quantization)

    @property
    def step(self) -> Step:
        """The step that quantizes the layer."""
        return Recipe.parse(self.quantization).steps[0]


@dataclass(frozen=True)
class Treatments:
    """What was done to all layers of a checkpoint.

    Attributes:
        dtype: of the weights, such as ``float16``; empty if it is the baseline's.
        layers: the treatments by name of the layer; layers without one are left out.
        shapes: ``(out, in)`` of each layer whose heads or neurons were removed.
        unexplained: names of further layers whose weights differ from the baseline's.
        reason: why there is no naive counterpart; empty if there is one.
    """

    dtype: str = ""
    layers: Mapping[str, Treatment] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unexplained: tuple[str, ...] = ()
    reason: str = ""

    def to_json(self) -> str:
        """Return the record as JSON, the same text for equal records in the same order."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Treatments":
        """Return the record that :meth:`to_json` encoded."""
        fields = json.loads(text)
        layers = {
            name: Treatment(**{**table, "pattern": table["pattern"] and tuple(table["pattern"])})
            for name, table in fields.pop("layers").items()
        }
        shapes = {name: tuple(shape) for name, shape in fields.pop("shapes").items()}
        unexplained = tuple(fields.pop("unexplained"))
        return cls(layers=layers, shapes=shapes, unexplained=unexplained, **fields)

    def summary(self) -> str:
        """Describe the treatments in one line, such as ``zeros and rtn-int4 in 28 layers``."""
        counts: dict[str, int] = {}
        for treatment in self.layers.values():
            text = " and ".join(_described(treatment))
            counts[text] = counts.get(text, 0) + 1
        if self.shapes:
            counts["fewer heads or neurons"] = len(self.shapes)
        parts = [f"{text} in {_layers(count)}" for text, count in counts.items()]
        if self.unexplained:
            parts.append(f"other changes in {_layers(len(self.unexplained))}")
        return ", ".join(parts) or "nothing was changed"


def _described(treatment: Treatment) -> list[str]:
    words = []
    if treatment.pattern:
        words.append("{}:{}".format(*treatment.pattern))
    elif treatment.zeros:
        words.append("zeros")
    if treatment.rank:
        words.append("a lower rank")
    return [*words, *([treatment.quantization] if treatment.quantization else [])]


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
