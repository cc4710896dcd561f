"""Runs a distillation step.

The student is a shorter model made from layers of its teacher. If ``layers`` is not given, it is
the model as the earlier steps have left it, which may be pruned, factored, or have fewer heads and
channels. The teacher is the model before the first step. Zeros of pruned layers are preserved.

The function of a method is ``distill(compressed, step, batches) -> None``. It trains a student of
``compressed.teacher`` and assigns it to ``compressed.model``.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression_gates.compression.compressed import Compressed
from compression_gates.compression.distillation.attention import Attention, record_attention
from compression_gates.compression.distillation.losses import (
    attention_loss,
    feature_loss,
    relation_loss,
    response_loss,
)
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

HIDDEN_STATE_LOSSES = {"feature", "layerwise"}
ATTENTION_LOSSES = {"attention", "relations"}


def check(model: PreTrainedModel, step: Step) -> None:
    """Raise a RecipeError if the student cannot be made, or its attention cannot be recorded."""
    if step["include"] or step["exclude"]:
        raise RecipeError(
            "distill: the whole student is trained; leave out the settings include and exclude"
        )
    if step["layers"] is not None:
        check_student(model, step["layers"])
    if ATTENTION_LOSSES & dict(step["loss"]).keys():
        with record_attention(model):
            pass


def run(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Run the step; see :func:`distill`."""
    step.entry.implementation(compressed, step, batches)


def distill(compressed: Compressed, step: Step, batches: Sequence[Batch]) -> None:
    """Train the student on the weighted sum of the step's losses and assign it to the model.

    Raises:
        RecipeError: the student cannot be made, or its attention cannot be recorded.
        CompressionError: there is no batch, or the loss is not finite.
    """
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
        unlabelled = sum("labels" not in batch for batch in batches)
        if unlabelled:
            compressed.notes.append(
                f"{step.name}: {unlabelled} of {len(batches)} batches have no labels; the most "
                "likely classes of the teacher are used instead"
            )
    student.requires_grad_(True)
    loss = DistillationLoss(student, teacher, step)
    trained = [*student.parameters(), *loss.projections.parameters()]
    fit(
        [ParameterGroup(trained, step["learning_rate"])],
        batches, lambda batch, _: loss(batch), step["steps"], step["seed"],
        desc=step.name, after_step=compressed.zeros_keeper(student),
    )  # fmt: skip
    student.eval()
    compressed.model = student


def _origin(layer: Layer, origins: Mapping[str, str]) -> str:
    """Return the name of the teacher's layer from which a layer of the student starts."""
    stored = origins[layer.stored_name]
    if layer.expert is None:
        return stored.removesuffix(f".{layer.parameter}")
    return f"{stored}.{layer.expert}"


class _Outputs(NamedTuple):
    """The outputs of a model on one batch.

    Attributes:
        logits: of the model.
        hidden: hidden states ``(texts, positions, size)``, the embeddings first, or None. Those of
            an encoder-decoder model are its decoder's.
        attention: of each layer, or empty.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] | None
    attention: list[Attention]


class DistillationLoss:
    """The weighted sum of the losses of a student.

    Attributes:
        projections: learned maps from hidden states of the student to those of the teacher,
            initialized to the identity. They are used in training only.
    """

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel, step: Step):
        self.student, self.teacher = student, teacher
        self.weights = dict(step["loss"])
        self.temperature = step["temperature"]
        self.uses_hidden = bool(HIDDEN_STATE_LOSSES & self.weights.keys())
        self.uses_attention = bool(ATTENTION_LOSSES & self.weights.keys())
        self.layer_pairs = [(0, 0), *enumerate(layer_map(depth_of(student), depth_of(teacher)), 1)]
        self.projections = nn.ModuleList(
            _projection(student, teacher) for _ in self.layer_pairs if self.uses_hidden
        ).to(student.device)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss on one batch."""
        seq2seq = is_seq2seq(self.student)
        inputs = dict(batch) if seq2seq else inputs_of(batch)
        with torch.no_grad():
            teacher = self._outputs(self.teacher, inputs)
        student = self._outputs(self.student, inputs)
        mask, count = _mask(batch, seq2seq), len(self.layer_pairs)
        losses: dict[str, Callable[[], Tensor]] = {
            "labels": lambda: task_loss(
                self.student, _labelled(self.student, batch, teacher.logits), student.logits
            ),
            "response": lambda: response_loss(
                student.logits, teacher.logits, self.temperature, mask
            ),
            # FitNets (Romero et al. 2014, section 2.2) compares the middle layers.
            "feature": lambda: self._hidden_loss(student, teacher, mask, [count // 2]),
            # TinyBERT (Jiao et al. 2019, equations 8 and 9) compares the embeddings and all layers.
            "layerwise": lambda: self._hidden_loss(student, teacher, mask, range(count)),
            "attention": lambda: self._attention_loss(student, teacher, mask),
            "relations": lambda: _relation_loss(student.attention[-1], teacher.attention[-1], mask),
        }
        return sum(weight * losses[name]() for name, weight in self.weights.items())

    def _outputs(self, model: PreTrainedModel, inputs: Batch) -> _Outputs:
        with ExitStack() as stack:
            attention = stack.enter_context(record_attention(model)) if self.uses_attention else []
            stack.enter_context(without_cache(model))
            output = model(**inputs, output_hidden_states=self.uses_hidden)
        if self.uses_attention and len(attention) != depth_of(model):
            raise RecipeError(
                f"distill: {len(attention)} attention calls were recorded in {depth_of(model)} "
                f"layers of {type(model).__name__}; leave out the losses attention and relations"
            )
        hidden = output.get("hidden_states") or output.get("decoder_hidden_states")
        return _Outputs(output.logits, hidden, attention)

    def _hidden_loss(
        self, student: _Outputs, teacher: _Outputs, mask: Tensor | None, indices: Iterable[int]
    ) -> Tensor:
        """Return the mean feature loss over some pairs of layers."""
        losses = []
        for index in indices:
            own, other = self.layer_pairs[index]
            projected = self.projections[index](student.hidden[own].float())
            losses.append(feature_loss(projected, teacher.hidden[other], mask))
        return torch.stack(losses).mean()

    def _attention_loss(self, student: _Outputs, teacher: _Outputs, mask: Tensor | None) -> Tensor:
        """Return the mean attention loss over all pairs of layers."""
        losses = []
        for own, other in self.layer_pairs[1:]:
            maps = student.attention[own - 1], teacher.attention[other - 1]
            losses.append(attention_loss(*(m.probabilities for m in maps), mask))
        return torch.stack(losses).mean()


def _mask(batch: Batch, seq2seq: bool) -> Tensor | None:
    """Return the mask of the positions of the logits, 0 for padding, or None without padding."""
    if not seq2seq:
        return batch.get("attention_mask")
    mask = batch.get("decoder_attention_mask")
    return (batch["labels"] != IGNORED).long() if mask is None and "labels" in batch else mask


def _labelled(model: PreTrainedModel, batch: Batch, teacher_logits: Tensor) -> Batch:
    """Return the batch with the teacher's most likely labels where it has none of its own."""
    if is_causal(model):
        return batch
    likely = teacher_logits.argmax(-1)
    labels = batch.get("labels", torch.full_like(likely, IGNORED))
    return {**batch, "labels": torch.where(labels == IGNORED, likely, labels)}


def _relation_loss(student: Attention, teacher: Attention, mask: Tensor | None) -> Tensor:
    """Return the relation loss, with the largest number of heads that divides both widths."""
    vectors = [(a.query, a.key, a.value) for a in (student, teacher)]
    heads = math.gcd(*(x.shape[1] for maps in vectors for x in maps))
    return relation_loss(*vectors, heads, mask)


def _projection(student: PreTrainedModel, teacher: PreTrainedModel) -> nn.Linear:
    sizes = [model.config.get_text_config().hidden_size for model in (student, teacher)]
    projection = nn.Linear(*sizes, bias=False)
    nn.init.eye_(projection.weight)
    return projection
