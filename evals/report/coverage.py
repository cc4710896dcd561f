"""Coverage of a model by the data of a run: vocabulary, positions, scripts and experts."""

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
    from compression_gates.evals.metrics.result import Scored

MIN_SCRIPT_SHARE = 0.01
"""Share of the letters below which a script is not listed."""
_SCRIPT_NAMES = {"CJK": "Han", "HIRAGANA": "Japanese kana", "KATAKANA": "Japanese kana"}
_FORMS = ("FULLWIDTH", "HALFWIDTH", "MATHEMATICAL", "MODIFIER", "CIRCLED", "SQUARED")
"""First words of Unicode names that are not scripts."""


@dataclass(frozen=True)
class Coverage:
    """Coverage of a baseline by a data set.

    Attributes:
        baseline, role, data: names; the role as in :data:`evals.tasks.ROLES`.
        used, vocabulary: numbers of tokens that occur in the data, and in the vocabulary.
        longest: number of tokens of the longest document.
        context: number of positions of the model; None if its configuration does not state it.
        window: number of tokens per window, if documents are split.
        scripts: share of the letters by script.
        experts, reached: numbers of experts in all layers, and of those that were activated; None
            if there are none, or if they were not counted.
        has_experts: whether the model has experts.
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
        """Number of positions of the model that the data use."""
        return min(filter(None, (self.longest, self.window, self.context)))

    def line(self) -> str:
        """Return the line for the notes of a report."""
        used_share = self.used / self.vocabulary if self.vocabulary else 0.0
        length = f"documents of at most {self.longest:,} tokens"
        if self.context and self.positions < self.longest:
            length += f", read {self.positions:,} at a time, of {self.context:,}"
        elif self.context:
            length += f" of {self.context:,}"
        scripts = [name for name, share in self.scripts.items() if share >= MIN_SCRIPT_SHARE]
        parts = [f"{used_share:.0%} of the vocabulary", length]
        parts.append(" and ".join(scripts) or "no letters")
        if self.reached is not None:
            parts.append(f"{self.reached:,} of {self.experts:,} experts")
        elif self.has_experts:
            parts.append("experts not counted")
        data = self.role if self.role == self.data else f"{self.role} ({self.data})"
        return f"{data}: {', '.join(parts)}"


def coverage_of(
    measurer: "Measurer", checkpoint: "Checkpoint", role: str, scored: "Scored"
) -> Coverage:
    """Return the coverage of a model by the data of a role on which it was scored."""
    data, arrays = scored.data, scored.measurement.arrays

    def run() -> "Mapping[str, np.ndarray]":
        from compression_gates.evals.models.loading import load_tokenizer
        from compression_gates.evals.scoring.vocabulary import token_coverage

        return token_coverage(load_tokenizer(checkpoint, measurer.trust_remote_code), data)

    origin = {
        "model": checkpoint.digest,
        "data": data.digest,
        "protocol": {"task": "vocabulary"},
    }
    counts = measurer.measure(checkpoint, origin, run).arrays
    experts = arrays.get("experts")
    is_counted = experts is not None and experts.size > 0
    return Coverage(
        baseline=checkpoint.label,
        role=role,
        data=data.name,
        **{name: int(counts[name]) for name in ("used", "vocabulary", "longest")},
        context=checkpoint.context,
        window=int(arrays["windowing"][0]) if "windowing" in arrays else None,
        scripts=json.loads(str(counts["scripts"])),
        experts=experts.size if is_counted else None,
        reached=int((experts > 0).sum()) if is_counted else None,
        has_experts=experts is not None,
    )


def scripts_of(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of the letters by script, the largest first, from their Unicode names.

    >>> scripts_of(["Merrin", "Москва"])
    {'Latin': 0.5, 'Cyrillic': 0.5}
    """
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(text)
    scripts: Counter[str] = Counter()
    for char, count in letters.items():
        if char.isalpha():
            scripts[_script(char)] += count
    total = scripts.total()
    return {name: count / total for name, count in scripts.most_common()}


def _script(letter: str) -> str:
    words = unicodedata.name(letter, "unnamed").replace("-", " ").split()
    first = next((word for word in words if word not in _FORMS), "unnamed")
    return _SCRIPT_NAMES.get(first, first.capitalize())
