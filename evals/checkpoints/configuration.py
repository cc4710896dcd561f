"""Settings of two ``config.json`` that change what a model computes, compared by their meaning."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from compression_gates.evals.checkpoints import settings, shapes
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, CLASSIFIER, SEQ2SEQ
from compression_gates.evals.checkpoints.effective import Part, is_read, parts_of
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.names import EXPERT_COUNTS
from compression_gates.evals.checkpoints.rope import rope_differences
from compression_gates.evals.checkpoints.settings import (
    ABSENT,
    ACTIVATION,
    CONTEXT,
    FORWARD,
    HEADS,
    NORMALIZATION,
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
    kind_of,
    may_be_no_size,
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
"""Settings that a class has turned into ``layer_types``, where it has them."""
_TEXT = "text_config."
UNKNOWN, STUDENT = "unknown setting", "setting of a student"
SHOWN = 6
"""Settings that a line names; of more, their number."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "attention_window", "local_attention")
_DIRECTIONS = {"is_causal", "use_bidirectional_attention"}
"""Settings that act on the shortest text."""
_SHARED = {NORMALIZATION: "norm_eps", ACTIVATION: "hidden_act"}
"""What two architectures call by names of their own."""


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds the settings of two configurations side by side; of an adapter, those of its base.

    Raises:
        EvalError: transformers does not take a configuration.
    """
    if any((side.base or side).file for side in (sides.baseline, sides.candidate)):
        return CheckpointComparison(
            not_compared={"config.json": "a GGUF file has a header in its place"}
        )
    one, two = _aligned(
        *(parts_of(side, sides.trust_remote_code) for side in (sides.baseline, sides.candidate))
    )
    findings = []
    if "" in one and "" in two:
        findings += _labels(sides, one[""], two[""])
    for prefix in sorted(one.keys() & two.keys()):
        pair = _Pair(sides, prefix, one[prefix], two[prefix], one.get(""))
        findings += pair.findings()
    lost = sorted(one.keys() ^ two.keys())
    if lost:
        names = listed([name.removesuffix(".") or "what is around it" for name in lost])
        findings.append(Finding(SIZE, f"only one of the configurations has {names}"))
    return CheckpointComparison(tuple(findings), ("configuration",))


def _aligned(
    one: Mapping[str, Part], two: Mapping[str, Part]
) -> tuple[Mapping[str, Part], Mapping[str, Part]]:
    """Two configurations part by part; where one side is the other's text model alone, it is
    beside that."""
    if (_TEXT in one) == (_TEXT in two):
        return one, two
    if _TEXT in one:
        return one, {**{name: part for name, part in two.items() if name}, _TEXT: two[""]}
    return {**{name: part for name, part in one.items() if name}, _TEXT: one[""]}, two


class _Pair:
    """The same part of two configurations."""

    def __init__(self, sides: "Sides", prefix: str, one: Part, two: Part, whole: Part | None):
        self.sides, self.prefix, self.one, self.two = sides, prefix, one, two
        self.whole = whole and whole.config
        self.kind = sides.baseline.kind
        self.is_one_type = one.values["model_type"] == two.values["model_type"]
        # Weights of another width are no baseline's weights: they were trained with their settings.
        self.is_student = self._differs("hidden_size") or (
            not self.is_one_type and self._differs("num_hidden_layers")
        )

    def findings(self) -> Iterable[Finding]:
        found: dict[str, list[Difference]] = {}
        for kind, difference in self._differences():
            found.setdefault(kind, []).append(difference)
        for kind, differences in found.items():
            yield from self._told(kind, differences)
        yield from self._rope()
        yield from self._context()

    def _differences(self) -> Iterable[tuple[str, Difference]]:
        """Settings that differ and the kind of each, in alphabetical order."""
        one, two = self._values(self.one), self._values(self.two)
        for name in sorted(one.keys() | two.keys()):
            values = one.get(name, ABSENT.get(name)), two.get(name, ABSENT.get(name))
            kind = kind_of(name, *values)
            if kind in (settings.BOOKKEEPING, ROPE, CONTEXT):
                continue
            if not (name in one and name in two) and not self._may_lack(name):
                continue
            if not self._is_same(kind, name, *values):
                kind = self._refined(kind, name, *values)
                yield kind, Difference(self.prefix + name, *values)

    def _values(self, part: Part) -> dict[str, object]:
        """Settings by name; of two architectures, by what they are to both."""
        if self.is_one_type:
            return dict(part.values)
        found = dict(part.values)
        for kind, shared in _SHARED.items():
            names = [name for name in found if kind_of(name) == kind and name in part.declared]
            if len(names) == 1:
                found[shared] = found.pop(names[0])
        return found

    def _may_lack(self, name: str) -> bool:
        """Whether a setting that one side has no place for is to be compared."""
        return self.is_one_type or name in ABSENT

    def _is_same(self, kind: str, name: str, one: object, two: object) -> bool:
        if name == "problem_type":
            return self._outcome(self.one, one) == self._outcome(self.two, two)
        if kind == PATTERN and isinstance(one, list) and isinstance(two, list):
            # Of a student, some of the layers.
            return same(one, two) or (len(two) < len(one) and _is_within(two, one))
        if name in _IN_LAYER_TYPES and self._has_layer_types():
            return True
        return same(one, two, kind)

    def _outcome(self, part: Part, problem_type: object) -> str:
        """What plain use makes of logits: of a classifier, as the pipelines of transformers do."""
        if problem_type == "multi_label_classification":
            return "sigmoid"
        if self.kind != CLASSIFIER:
            return "as they are"  # the other values tell losses apart
        if problem_type == "regression":
            return "as they are"
        return "sigmoid" if getattr(part.config, "num_labels", 2) == 1 else "softmax"

    def _has_layer_types(self) -> bool:
        """Whether both sides list what each layer sees, so that nothing else needs to say it."""
        return all(part.values.get("layer_types") for part in (self.one, self.two))

    def _refined(self, kind: str, name: str, one: object, two: object) -> str:
        """The kind of a difference, where its name alone does not tell."""
        known = {*self.one.declared, *self.two.declared, *_SHARED.values(), *READ_BY_ALL}
        is_known = name in known or is_read(type(self.one.config), name)
        if not is_known and kind not in (HEADS, TOKEN, TYING):
            return UNKNOWN
        if kind == SIZE and may_be_no_size(name, one, two) and self._keeps_shapes(name, two):
            kind = settings.NAMELESS
        if kind == TRAINING and acts_in_evaluation(self.one.values["model_type"], name):
            kind = settings.NAMELESS
        if kind == HEADS:
            return HEADS if self._splits_the_same_weights() else SIZE
        if kind == ROUTING and any(map(self._differs, EXPERT_COUNTS)):
            return SIZE
        if kind == TOKEN:
            return self._token_kind(name, one, two)
        if kind == TYING:
            return TYING if two else "head of its own"
        return STUDENT if kind in FORWARD and self.is_student else kind

    def _keeps_shapes(self, name: str, two: object) -> bool:
        """Whether a whole number changes no shape of the baseline's tensors, and so is no size."""
        if isinstance(two, int) and abs(two) > shapes.MOST:
            return False
        config, own = self.one.config, name
        if self.whole is not None:
            config, own = self.whole, self.prefix + name
        before = shapes.shapes_of(config, self.kind)
        return before is not None and shapes.shapes_with(config, self.kind, own, two) == before

    def _token_kind(self, name: str, one: object, two: object) -> str:
        if name == "pad_token_id" and self.kind not in (CAUSAL, SEQ2SEQ) and one is not None:
            return "padding token"
        if name == "decoder_start_token_id" and self.kind == SEQ2SEQ:
            return "first token of the decoder"
        return TOKEN

    def _splits_the_same_weights(self) -> bool:
        """Whether both sides divide projections of one size into other numbers of heads."""
        (heads, size), (others, other_size) = map(_heads, (self.one, self.two))
        if self.is_student or self._differs("num_hidden_layers") or None in (heads, others):
            return False
        return heads != others and heads * size == others * other_size

    def _told(self, kind: str, differences: Sequence[Difference]) -> Iterable[Finding]:
        if kind in (UNKNOWN, TRAINING):
            names = listed([short_name(found.name) for found in differences], shown=SHOWN)
            what = "that transformers does not know" if kind == UNKNOWN else "of training"
            yield Finding(kind, f"the configurations differ in settings {what}: {names}")
            return
        end = ""
        if kind == PATTERN and not {found.name for found in differences} & _DIRECTIONS:
            spans = [self._span(part) for part in (self.one, self.two)]
            if min(spans) >= self.sides.lengths.sequence:
                end = f": {self.sides.lengths.unseen()}"
        yield _finding(kind, differences, end)

    def _span(self, part: Part) -> float:
        """Tokens up to which all layers see everything before a token."""
        found = [part.values.get(name) for name in _WINDOWS]
        layers = part.values.get("layer_types") or ["full_attention"]
        if not all(str(layer).endswith("_attention") for layer in layers) or (
            "linear_attention" in layers
        ):
            return 0
        windows = [value for value in found if isinstance(value, int) and value > 0]
        return min(windows, default=float("inf"))

    def _rope(self) -> Iterable[Finding]:
        if not all(hasattr(part.config, "rope_parameters") for part in (self.one, self.two)):
            return
        longest = self.sides.lengths.sequence if self._may_rotate_otherwise() else 0
        found, seen = rope_differences(self.one.config, self.two.config, longest)
        if found:
            end = "" if seen else f": {self.sides.lengths.unseen()}"
            differences = [Difference(self.prefix + d.name, d.baseline, d.candidate) for d in found]
            yield _finding(STUDENT if self.is_student else ROPE, differences, end)

    def _may_rotate_otherwise(self) -> bool:
        return self.one.config.rope_parameters != self.two.config.rope_parameters

    def _context(self) -> Iterable[Finding]:
        one, two = (
            next((v for name, v in part.values.items() if kind_of(name) == CONTEXT), None)
            for part in (self.one, self.two)
        )
        if not (isinstance(one, int) and isinstance(two, int)) or one == two:
            return
        if two < one and self._names_its_context():
            return  # of what the files themselves say, the comparison of tokens tells
        if two < one:
            yield Finding("context length", shorter_context(one, two))
        else:
            text = f"the candidate is said to take {two} tokens, the baseline {one}"
            yield Finding("longer context", text)

    def _names_its_context(self) -> bool:
        return None not in (self.sides.baseline.context, self.sides.candidate.context)

    def _differs(self, name: str) -> bool:
        return not same(self.one.values.get(name), self.two.values.get(name))


def _finding(kind: str, differences: Sequence[Difference], end: str = "") -> Finding:
    names = listed([str(found) for found in differences], shown=SHOWN)
    return Finding(kind, f"the configurations differ in {names}{end}")


def _is_within(few: Sequence[object], many: Sequence[object]) -> bool:
    """Whether ``few`` are some of ``many``, in their order."""
    rest = iter(many)
    return all(any(same(value, other) for other in rest) for value in few)


def _heads(part: Part) -> tuple[int | None, int]:
    """Number and size of attention heads."""
    names = "num_attention_heads", "head_dim", "hidden_size"
    number, size, width = (part.values.get(name) for name in names)
    if not isinstance(number, int) or not number:
        return None, 0
    return number, size or (width // number if isinstance(width, int) else 0)


def _labels(sides: "Sides", one: Part, two: Part) -> Iterable[Finding]:
    """Names of the classes, by index; of a file that gives none, those of transformers."""
    if sides.baseline.kind != CLASSIFIER:
        return
    named = [_names(part) for part in (one, two)]
    if named[0] != named[1]:
        place = next((i for i, pair in enumerate(zip(*named, strict=False)) if len({*pair}) > 1), 0)
        start = place if place >= SHOWN else 0
        before, after = (
            listed([short_name(name) for name in names[start:]], shown=SHOWN) for names in named
        )
        text = f"the label maps differ: {after} for the candidate, {before} for the baseline"
        yield Finding("label map", text)
        return
    ids = [_ids(part) for part in (one, two)]
    inverse = {name: str(index) for index, name in enumerate(named[1])}
    if ids[1] not in (ids[0], inverse):
        name = next(name for name in (*ids[1], *ids[0]) if ids[0].get(name) != ids[1].get(name))
        before, after = (short_name(str(side.get(name, "none"))) for side in ids)
        text = (
            f"the label maps differ: label2id of {short_name(name)} is {after} for the candidate, "
            f"{before} for the baseline"
        )
        yield Finding("label map", text)


def _names(part: Part) -> list[str]:
    labels = part.config.id2label or {}
    return [str(labels[index]) for index in sorted(labels)]


def _ids(part: Part) -> dict[str, str]:
    """``label2id``; where a file gives none, what its names say."""
    given = part.config.label2id
    if isinstance(given, Mapping) and given:
        return {str(name): str(index) for name, index in given.items()}
    return {name: str(index) for index, name in enumerate(_names(part))}
