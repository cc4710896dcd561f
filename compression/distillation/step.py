"""Carries out a distillation step.

The student is a shorter model made from its teacher's layers, or, where ``layers`` is not given,
the model as the steps before have left it: pruned, factored, with fewer heads and channels. The
teacher is the model before any step. Zeros of pruned layers stay zero.

A method's function is ``distill(compressed, step, batches)``: it trains a student beside
``compressed.teacher`` and puts it into ``compressed.model``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.distillation.losses import (
    attention_loss,
    feature_loss,
    relation_loss,
    response_loss,
)
from compression_gates.compression.distillation.recording import Attention, recorded
from compression_gates.compression.distillation.student import (
    check_student,
    depth_of,
    layer_map,
    make_student,
)
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.capture import Batch, without_cache
from compression_gates.compression.model.gradients import (
    IGNORED,
    inputs_of,
    is_causal,
    is_seq2seq,
    task_loss,
)
from compression_gates.compression.model.layers import Layer, all_layers
from compression_gates.compression.model.training import ParameterGroup, fit
from compression_gates.compression.recipe import Step

HIDDEN, MAPS = ("feature", "layerwise"), ("attention", "relations")


def check(model: PreTrainedModel, step: Step) -> None:
    """Raises a RecipeError where the student cannot be made or watched."""
    if step["include"] or step["exclude"]:
        raise RecipeError("distill: a student is trained whole; leave out include and exclude")
    if step["layers"] is not None:
        check_student(model, step["layers"])
    if any(name in MAPS for name, _ in step["loss"]):
        with recorded(model):
            pass


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Carries out the step."""
    step.entry.implementation(compressed, step, batches)


def distill(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Trains the student and puts it in the model's place."""
    teacher = compressed.teacher
    student = compressed.model
    if step["layers"] is not None:
        student, origins = make_student(student, step["layers"])
        compressed.pruned = {
            name: compressed.pruned[origin]
            for name, layer in all_layers(student).items()
            if (origin := _origin(layer, origins)) in compressed.pruned
        }
    if "labels" in dict(step["loss"]) and not is_causal(student):
        without = sum("labels" not in batch for batch in batches)
        if without:
            compressed.notes.append(
                f"{step.name}: {without} of {len(batches)} batches have no labels; the teacher's "
                "most likely classes stand for them"
            )
    student.requires_grad_(True)
    lesson = Lesson(student, teacher, step)
    trained = [*student.parameters(), *lesson.projections.parameters()]
    fit(
        [ParameterGroup(trained, step["learning_rate"])],
        batches, lambda batch, _: lesson.loss(batch), step["steps"], step["seed"],
        desc=step.name, after_step=compressed.zeros_keeper(student),
    )  # fmt: skip
    student.eval()
    compressed.model = student


def _origin(layer: Layer, origins: Mapping[str, str]) -> str:
    """What the teacher calls a layer of its student."""
    stored = origins[layer.stored_name]
    if layer.expert is None:
        return stored.removesuffix(f".{layer.parameter}")
    return f"{stored}.{layer.expert}"


class Lesson:
    """The loss of a student beside its teacher.

    Attributes:
        projections: learned maps from the student's hidden states to the teacher's; they begin as
            the identity and are thrown away afterwards.
    """

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel, step: Step):
        self.student, self.teacher = student, teacher
        self.weights = dict(step["loss"])
        self.temperature = step["temperature"]
        depths = [depth_of(model) for model in (student, teacher)]
        self.pairs = [(0, 0), *enumerate(layer_map(*depths), 1)]
        self.projections = nn.ModuleList(
            _projection(student, teacher) for _ in self.pairs if set(HIDDEN) & set(self.weights)
        ).to(student.device)

    def loss(self, batch: Batch) -> Tensor:
        """The weighted sum of the losses on one batch."""
        seq2seq = is_seq2seq(self.student)
        inputs = dict(batch) if seq2seq else inputs_of(batch)
        hidden = bool(set(HIDDEN) & set(self.weights))
        with torch.no_grad():
            teacher, seen = self._outputs(self.teacher, inputs, hidden)
        student, own = self._outputs(self.student, inputs, hidden)
        mask = _mask(batch, seq2seq)
        parts: dict[str, Callable[[], Tensor]] = {
            "labels": lambda: task_loss(
                self.student, _labelled(self.student, batch, teacher.logits), student.logits
            ),
            "response": lambda: response_loss(
                student.logits, teacher.logits, self.temperature, mask
            ),
            "feature": lambda: self._feature(student, teacher, mask),
            "layerwise": lambda: self._layerwise(student, teacher, mask),
            "attention": lambda: self._attention(own, seen, mask),
            "relations": lambda: _relations(own[-1], seen[-1], mask),
        }
        return sum(weight * parts[name]() for name, weight in self.weights.items())

    def _outputs(
        self, model: PreTrainedModel, inputs: Batch, hidden: bool
    ) -> tuple[object, list[Attention]]:
        with ExitStack() as stack:
            maps = set(MAPS) & set(self.weights)
            found = stack.enter_context(recorded(model)) if maps else []
            stack.enter_context(without_cache(model))
            output = model(**inputs, output_hidden_states=hidden)
        if maps and len(found) != depth_of(model):
            raise RecipeError(
                f"distill: {type(model).__name__} attends {len(found)} times that can be recorded "
                f"in {depth_of(model)} layers; use other losses"
            )
        return output, found

    def _feature(self, student, teacher, mask: Tensor | None) -> Tensor:
        """The hint: the student's middle layer guided by the teacher's (FitNets, section 2.2)."""
        middle = (len(self.pairs) - 1 + 1) // 2
        own, other = self.pairs[middle]
        projected = self.projections[middle](_hidden(student)[own].float())
        return feature_loss(projected, _hidden(teacher)[other], mask)

    def _layerwise(self, student, teacher, mask: Tensor | None) -> Tensor:
        """TinyBERT (Jiao et al. 2019, equations 8 and 9): embeddings and every layer."""
        found = [
            feature_loss(projection(_hidden(student)[own].float()), _hidden(teacher)[other], mask)
            for projection, (own, other) in zip(self.projections, self.pairs, strict=True)
        ]
        return torch.stack(found).mean()

    def _attention(
        self, own: list[Attention], seen: list[Attention], mask: Tensor | None
    ) -> Tensor:
        found = [
            attention_loss(own[m - 1].probabilities, seen[t - 1].probabilities, mask)
            for m, t in self.pairs[1:]
        ]
        return torch.stack(found).mean()


def _mask(batch: Batch, seq2seq: bool) -> Tensor | None:
    """1 where the positions of the logits are not padding."""
    if not seq2seq:
        return batch.get("attention_mask")
    mask = batch.get("decoder_attention_mask")
    return (batch["labels"] != IGNORED).long() if mask is None and "labels" in batch else mask


def _hidden(output) -> tuple[Tensor, ...]:
    """Hidden states, embeddings first; an encoder-decoder model's are its decoder's."""
    found = output.get("hidden_states")
    return output.decoder_hidden_states if found is None else found


def _labelled(model: PreTrainedModel, batch: Batch, teacher: Tensor) -> Batch:
    """The batch with labels: its own, or the teacher's most likely ones for texts without."""
    if is_causal(model):
        return batch
    likely = teacher.argmax(-1)
    own = batch.get("labels", torch.full_like(likely, IGNORED))
    return {**batch, "labels": torch.where(own == IGNORED, likely, own)}


def _relations(own: Attention, other: Attention, mask: Tensor | None) -> Tensor:
    """Between the last layers; relation heads as many as divide both widths."""
    vectors = [(a.query, a.key, a.value) for a in (own, other)]
    heads = math.gcd(*(x.shape[1] for maps in vectors for x in maps))
    return relation_loss(*vectors, heads, mask)


def _projection(student: PreTrainedModel, teacher: PreTrainedModel) -> nn.Linear:
    sizes = [model.config.get_text_config().hidden_size for model in (student, teacher)]
    projection = nn.Linear(*sizes, bias=False)
    nn.init.eye_(projection.weight)
    return projection
