"""What share of a model a run's data exercised."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from compression_gates.evals.checkpoints.checkpoint import Checkpoint
    from compression_gates.evals.measuring import Measurer
    from compression_gates.evals.metrics.reading import Scored

FEW = 0.01
"""Scripts with a smaller share of the letters are not named."""
_JOINED = {"CJK": "Han", "HIRAGANA": "Japanese kana", "KATAKANA": "Japanese kana"}
_FORMS = ("FULLWIDTH", "HALFWIDTH", "MATHEMATICAL", "MODIFIER", "CIRCLED", "SQUARED")
"""First words of names of letters that are no scripts."""


@dataclass(frozen=True)
class Coverage:
    """What one data set touches of one baseline.

    Attributes:
        baseline, role, data: labels; the role as in :data:`evals.tasks.ROLES`.
        used, vocabulary: tokens that occur, and those that there are.
        longest: tokens of the longest document.
        context: positions of the model, or None where it does not say.
        window: tokens that are read at a time, where documents are cut.
        scripts: shares of the letters.
        experts, reached: of all layers; None where there are none, or where they are not counted.
        has_experts: whether there are any.
    """

    baseline: str
    role: str
    data: str
    used: int
    vocabulary: int
    longest: int
    context: int | None
    window: int | None
    scripts: Mapping[str, float]
    experts: int | None = None
    reached: int | None = None
    has_experts: bool = False

    @property
    def positions(self) -> int:
        """Positions of the model that are used."""
        return min(filter(None, (self.longest, self.window, self.context)))

    def line(self) -> str:
        """For the notes of a report."""
        share = self.used / self.vocabulary if self.vocabulary else 0.0
        length = f"documents of at most {self.longest:,} tokens"
        if self.context and self.positions < self.longest:
            length += f", read {self.positions:,} at a time, of {self.context:,}"
        elif self.context:
            length += f" of {self.context:,}"
        named = [name for name, part in self.scripts.items() if part >= FEW]
        parts = [f"{share:.0%} of the vocabulary", length, " and ".join(named) or "no letters"]
        if self.reached is not None:
            parts.append(f"{self.reached:,} of {self.experts:,} experts")
        elif self.has_experts:
            parts.append("experts not counted")
        where = self.role if self.role == self.data else f"{self.role} ({self.data})"
        return f"{where}: {', '.join(parts)}"


def coverage_of(
    measurer: "Measurer", checkpoint: "Checkpoint", role: str, scored: "Scored"
) -> Coverage:
    """What the data of a role exercised of a model that was scored on them."""
    data, arrays = scored.data, scored.measurement.arrays

    def run() -> "Mapping[str, np.ndarray]":
        from compression_gates.evals.models.loading import load_tokenizer
        from compression_gates.evals.scoring.vocabulary import tokens_of

        return tokens_of(load_tokenizer(checkpoint, measurer.trust_remote_code), data)

    origin = {
        "model": checkpoint.digest,
        "data": data.digest,
        "protocol": {"task": "vocabulary"},
    }
    found = measurer.measure(checkpoint, origin, run).arrays
    experts = arrays.get("experts")
    counted = experts is not None and experts.size > 0
    return Coverage(
        baseline=checkpoint.label,
        role=role,
        data=data.name,
        **{name: int(found[name]) for name in ("used", "vocabulary", "longest")},
        context=checkpoint.context,
        window=int(arrays["windowing"][0]) if "windowing" in arrays else None,
        scripts=json.loads(str(found["scripts"])),
        experts=experts.size if counted else None,
        reached=int((experts > 0).sum()) if counted else None,
        has_experts=experts is not None,
    )


def scripts_of(texts: Iterable[str]) -> dict[str, float]:
    """Shares of the letters by script, the largest first, as Unicode's names of letters tell it.

    >>> scripts_of(["Merrin", "Москва"])
    {'Latin': 0.5, 'Cyrillic': 0.5}
    """
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(text)
    found: Counter[str] = Counter()
    for char, count in letters.items():
        if char.isalpha():
            found[_script(char)] += count
    total = found.total()
    return {name: count / total for name, count in found.most_common()}


def _script(letter: str) -> str:
    words = unicodedata.name(letter, "unnamed").replace("-", " ").split()
    first = next((word for word in words if word not in _FORMS), "unnamed")
    return _JOINED.get(first, first.capitalize())
