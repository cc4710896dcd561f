"""Comparison of the settings in two ``config.json`` that change what a model computes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints import parameter_shapes
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, CLASSIFIER, SEQ2SEQ
from compression_gates.evals.checkpoints.configuration_parts import Part, is_read, parts_of
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.names import EXPERT_COUNTS
from compression_gates.evals.checkpoints.rope import rope_differences
from compression_gates.evals.checkpoints.setting_kinds import (
    ABSENT,
    ACTIVATION,
    BOOKKEEPING,
    CONTEXT,
    FORWARD,
    HEADS,
    NORMALIZATION,
    OTHER,
    PATTERN,
    READ_BY_ALL,
    ROPE,
    ROUTING,
    SIZE,
    TOKEN,
    TRAINING,
    TYING,
    Difference,
    acts_in_evaluation,
    is_assumed_size,
    kind_of,
    same,
    short_name,
)
from compression_gates.evals.checkpoints.tokens import shorter_context
from compression_gates.evals.errors import listed

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_IN_LAYER_TYPES = (
    "use_sliding_window", "max_window_layers", "sliding_window_pattern",
    "global_attn_every_n_layers",
)  # fmt: skip
"""Settings from which a class computes ``layer_types``, if it has that setting."""
_TEXT = "text_config."
UNKNOWN, STUDENT = "unknown setting", "setting of a student"
SHOWN = 6
"""Maximum number of settings that a finding names."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "attention_window", "local_attention")
_DIRECTIONS = {"is_causal", "use_bidirectional_attention"}
"""Settings that affect sequences of any length."""
_SHARED = {NORMALIZATION: "norm_eps", ACTIVATION: "hidden_act"}
"""Common names for settings that architectures name differently."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Compare the settings of two configurations, of an adapter those of its base.

    Raises:
        EvalError: transformers does not load a configuration.
    """
    if any(side.source.file for side in (sides.baseline, sides.candidate)):
        return CheckpointComparison(
            not_compared={"config.json": "a GGUF file has a header in its place"}
        )
    baseline, candidate = _aligned(*map(parts_of, (sides.baseline_config, sides.candidate_config)))
    findings = []
    if "" in baseline and "" in candidate:
        findings += _labels(sides, baseline[""], candidate[""])
    for prefix in sorted(baseline.keys() & candidate.keys()):
        pair = _Pair(sides, prefix, baseline[prefix], candidate[prefix], baseline.get(""))
        findings += pair.findings()
    if unpaired := sorted(baseline.keys() ^ candidate.keys()):
        names = listed([name.removesuffix(".") or "the outer configuration" for name in unpaired])
        findings.append(Finding(SIZE, f"only one of the configurations has {names}"))
    return CheckpointComparison(tuple(findings), ("configuration",))


def _aligned(
    baseline: Mapping[str, Part], candidate: Mapping[str, Part]
) -> tuple[Mapping[str, Part], Mapping[str, Part]]:
    """Give corresponding parts the same prefix if one side is only the text model of the other."""
    if (_TEXT in baseline) == (_TEXT in candidate):
        return baseline, candidate
    if _TEXT in baseline:
        return baseline, _as_text_model(candidate)
    return _as_text_model(baseline), candidate


def _as_text_model(parts: Mapping[str, Part]) -> dict[str, Part]:
    return {name or _TEXT: part for name, part in parts.items()}


class _Pair:
    """The same part of two configurations."""

    def __init__(
        self, sides: "Sides", prefix: str, baseline: Part, candidate: Part, outer: Part | None
    ):
        self.sides, self.prefix = sides, prefix
        self.baseline, self.candidate = self.parts = baseline, candidate
        self.outer_config = outer and outer.config
        self.kind = sides.baseline.kind
        self.is_same_architecture = not self._differs("model_type")
        # A model of another width has its own weights, trained with its own settings.
        self.is_student = self._differs("hidden_size") or (
            not self.is_same_architecture and self._differs("num_hidden_layers")
        )

    def findings(self) -> Iterable[Finding]:
        by_kind: dict[str, list[Difference]] = {}
        for kind, difference in self._differences():
            by_kind.setdefault(kind, []).append(difference)
        for kind, differences in by_kind.items():
            yield self._finding(kind, differences)
        yield from self._rope()
        yield from self._context()

    def _differences(self) -> Iterable[tuple[str, Difference]]:
        """Yield the settings that differ and their kinds, in alphabetical order."""
        baseline, candidate = map(self._values, self.parts)
        for name in sorted(baseline.keys() | candidate.keys()):
            values = baseline.get(name, ABSENT.get(name)), candidate.get(name, ABSENT.get(name))
            kind = kind_of(name, *values)
            if kind in (BOOKKEEPING, ROPE, CONTEXT):
                continue
            is_comparable = (
                (name in baseline and name in candidate)
                or self.is_same_architecture
                or name in ABSENT
            )
            if is_comparable and not self._is_same(kind, name, *values):
                kind = self._refined(kind, name, *values)
                yield kind, Difference(self.prefix + name, *values)

    def _values(self, part: Part) -> dict[str, object]:
        """Return settings by name; for two architectures, by their common names."""
        values = dict(part.values)
        if self.is_same_architecture:
            return values
        for kind, shared in _SHARED.items():
            names = [name for name in values if kind_of(name) == kind and name in part.declared]
            if len(names) == 1:
                values[shared] = values.pop(names[0])
        return values

    def _is_same(self, kind: str, name: str, before: object, after: object) -> bool:
        if name == "problem_type":
            one, two = map(self._activation_of_logits, self.parts, (before, after))
            return one == two
        if kind == PATTERN and isinstance(before, list) and isinstance(after, list):
            # A student may keep only some of the layers.
            is_shorter = len(after) < len(before)
            return same(before, after) or (is_shorter and _is_subsequence(after, before))
        if name in _IN_LAYER_TYPES and all(part.values.get("layer_types") for part in self.parts):
            return True
        return same(before, after, kind)

    def _activation_of_logits(self, part: Part, problem_type: object) -> str:
        """Return what the pipelines of transformers apply to the logits of a classifier."""
        if problem_type == "multi_label_classification":
            return "sigmoid"
        if self.kind != CLASSIFIER or problem_type == "regression":
            return "none"  # other values only select a loss
        return "sigmoid" if getattr(part.config, "num_labels", 2) == 1 else "softmax"

    def _refined(self, kind: str, name: str, before: object, after: object) -> str:
        """Return the kind of a difference, which may depend on more than the name."""
        known = {*self.baseline.declared, *self.candidate.declared, *_SHARED.values(), *READ_BY_ALL}
        is_known = name in known or is_read(type(self.baseline.config), name)
        if not is_known and kind not in (HEADS, TOKEN, TYING):
            return UNKNOWN
        if kind == SIZE and is_assumed_size(name, before, after):
            kind = OTHER if self._keeps_shapes(name, after) else SIZE
        if kind == TRAINING and acts_in_evaluation(self.baseline.values["model_type"], name):
            kind = OTHER
        if kind == HEADS:
            return HEADS if self._splits_same_weights() else SIZE
        if kind == ROUTING and any(map(self._differs, EXPERT_COUNTS)):
            return SIZE
        if kind == TOKEN:
            return self._token_kind(name, before)
        if kind == TYING:
            return TYING if after else "separate output layer"
        return STUDENT if kind in FORWARD and self.is_student else kind

    def _keeps_shapes(self, name: str, after: object) -> bool:
        """Return whether an integer changes no shape of the baseline's tensors, so is no size."""
        if isinstance(after, int) and abs(after) > parameter_shapes.LARGEST:
            return False
        config = self.baseline.config
        if self.outer_config is not None:
            config, name = self.outer_config, self.prefix + name
        before = parameter_shapes.shapes_of(config, self.kind)
        return (
            before is not None
            and parameter_shapes.shapes_with(config, self.kind, name, after) == before
        )

    def _token_kind(self, name: str, before: object) -> str:
        if name == "pad_token_id" and self.kind not in (CAUSAL, SEQ2SEQ) and before is not None:
            return "padding token"
        if name == "decoder_start_token_id" and self.kind == SEQ2SEQ:
            return "first token of the decoder"
        return TOKEN

    def _splits_same_weights(self) -> bool:
        """Return whether projections of the same size are split into other numbers of heads."""
        (heads, size), (other_heads, other_size) = map(_heads, self.parts)
        if self.is_student or self._differs("num_hidden_layers") or None in (heads, other_heads):
            return False
        return heads != other_heads and heads * size == other_heads * other_size

    def _finding(self, kind: str, differences: Sequence[Difference]) -> Finding:
        if kind in (UNKNOWN, TRAINING):
            names = listed([short_name(item.name) for item in differences], shown=SHOWN)
            which = "that transformers does not know" if kind == UNKNOWN else "of training"
            return Finding(kind, f"the configurations differ in settings {which}: {names}")
        is_visible = True
        if kind == PATTERN and not {item.name for item in differences} & _DIRECTIONS:
            is_visible = min(map(_span, self.parts)) < self.sides.lengths.sequence
        return self._describe(kind, differences, is_visible)

    def _describe(self, kind: str, differences: Sequence[Difference], is_visible: bool) -> Finding:
        names = listed(list(map(str, differences)), shown=SHOWN)
        reason = "" if is_visible else f": {self.sides.lengths.unseen()}"
        return Finding(kind, f"the configurations differ in {names}{reason}")

    def _rope(self) -> Iterable[Finding]:
        baseline, candidate = (part.config for part in self.parts)
        if not (hasattr(baseline, "rope_parameters") and hasattr(candidate, "rope_parameters")):
            return
        # Counting tokens takes time, and is not needed where nothing can differ.
        may_differ = baseline.rope_parameters != candidate.rope_parameters
        longest = self.sides.lengths.sequence if may_differ else 0
        differences, is_visible = rope_differences(baseline, candidate, longest, self.prefix)
        if differences:
            yield self._describe(STUDENT if self.is_student else ROPE, differences, is_visible)

    def _context(self) -> Iterable[Finding]:
        before, after = (
            next((v for name, v in part.values.items() if kind_of(name) == CONTEXT), None)
            for part in self.parts
        )
        if not (isinstance(before, int) and isinstance(after, int)) or before == after:
            return
        if after > before:
            text = f"the candidate accepts at most {after} tokens, the baseline {before}"
            yield Finding("longer context", text)
        elif None in (self.sides.baseline.context, self.sides.candidate.context):
            # If both files name their context, the comparison of tokens reports it.
            yield Finding("context length", shorter_context(before, after))

    def _differs(self, name: str) -> bool:
        return not same(self.baseline.values.get(name), self.candidate.values.get(name))


def _span(part: Part) -> float:
    """Return the number of tokens up to which every layer attends to all previous tokens."""
    layers = part.values.get("layer_types") or ["full_attention"]
    if not all(str(layer).endswith("_attention") for layer in layers) or (
        "linear_attention" in layers
    ):
        return 0
    windows = [part.values.get(name) for name in _WINDOWS]
    return min(
        (size for size in windows if isinstance(size, int) and size > 0), default=float("inf")
    )


def _is_subsequence(few: Sequence[object], many: Sequence[object]) -> bool:
    """Return whether ``few`` are some of ``many``, in their order."""
    rest = iter(many)
    return all(any(same(value, other) for other in rest) for value in few)


def _heads(part: Part) -> tuple[int | None, int]:
    """Return the number and the size of attention heads."""
    names = "num_attention_heads", "head_dim", "hidden_size"
    number, size, width = (part.values.get(name) for name in names)
    if not isinstance(number, int) or not number:
        return None, 0
    return number, size or (width // number if isinstance(width, int) else 0)


def _labels(sides: "Sides", baseline: Part, candidate: Part) -> Iterable[Finding]:
    """Compare the names of classes by index, and the indices of names."""
    if sides.baseline.kind != CLASSIFIER:
        return
    names = [_label_names(part) for part in (baseline, candidate)]
    if names[0] != names[1]:
        pairs = enumerate(zip(*names, strict=False))
        index = next((i for i, (before, after) in pairs if before != after), 0)
        start = index if index >= SHOWN else 0
        before, after = (
            listed([short_name(name) for name in side[start:]], shown=SHOWN) for side in names
        )
        text = f"the label maps differ: {after} for the candidate, {before} for the baseline"
        yield Finding("label map", text)
        return
    ids = [_label_ids(part) for part in (baseline, candidate)]
    inverse = {name: str(index) for index, name in enumerate(names[1])}
    if ids[1] not in (ids[0], inverse):
        name = next(name for name in (*ids[1], *ids[0]) if ids[0].get(name) != ids[1].get(name))
        before, after = (short_name(str(side.get(name, "none"))) for side in ids)
        text = (
            f"the label maps differ: label2id of {short_name(name)} is {after} for the candidate, "
            f"{before} for the baseline"
        )
        yield Finding("label map", text)


def _label_names(part: Part) -> list[str]:
    labels = part.config.id2label or {}
    return [str(labels[index]) for index in sorted(labels)]


def _label_ids(part: Part) -> dict[str, str]:
    """Return ``label2id``, or the inverse of ``id2label`` if the file does not have it."""
    label2id = part.config.label2id
    if isinstance(label2id, Mapping) and label2id:
        return {str(name): str(index) for name, index in label2id.items()}
    return {name: str(index) for index, name in enumerate(_label_names(part))}
