"""Taylor scores and gradients of the loss against a float64 copy of the model.

The reference loss is the mean negative log-probability over single texts without padding. It is
differentiated by autograd in float64 and by central differences, whose error with a step of 1e-5 is
about 1e-10.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.gradients import (
    inputs_of,
    is_causal,
    losses,
    mean_gradients,
    task_loss,
)
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.pruning.masks import layer_view
from compression_gates.compression.pruning.taylor import taylor_scores
from compression_gates.compression.recipe import Recipe


def texts(batch):
    """Return the token ids of each text without padding."""
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [ids[mask.bool()] for ids, mask in pairs]


def next_token_loss(model, batch):
    """Return the negative log-probability of every token except the first of its text."""
    values = []
    for ids in texts(batch):
        logs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        values += [-logs[i, ids[i + 1]] for i in range(len(ids) - 1)]
    return torch.stack(values)


def class_loss(model, batch):
    """Return the negative log-probability of each text's label, or of the most likely class."""
    values = []
    for row, ids in enumerate(texts(batch)):
        logs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        label = batch["labels"][row] if "labels" in batch else logs.argmax()
        values.append(-logs[label])
    return torch.stack(values)


def labelled(batches):
    return [
        {**batch, "labels": torch.tensor([1, 0, 1][: len(batch["input_ids"])])} for batch in batches
    ]


def reference(model, batches, loss):
    """Return the mean loss over all batches, and its gradients by parameter name."""
    total = torch.cat([loss(model, batch) for batch in batches]).mean()
    parameters = dict(model.named_parameters())
    return total, dict(
        zip(parameters, torch.autograd.grad(total, parameters.values(), allow_unused=True),
            strict=True)
    )  # fmt: skip


def agree(found, expected):
    """Compare with a tolerance relative to the largest entry, as float32 backpropagation needs."""
    expected = torch.zeros_like(found) if expected is None else expected
    scale = float(expected.abs().max())
    return torch.allclose(found.double(), expected.double(), rtol=1e-4, atol=2e-5 * scale + 1e-9)


TASKS = {
    "llama": (next_token_loss, False),
    "gpt2": (next_token_loss, False),
    "bert": (class_loss, True),
    "bert without labels": (class_loss, False),
}


@pytest.fixture(params=TASKS)
def task(request, tiny_llama, tiny_encoder, batches):
    loss, labels = TASKS[request.param]
    if request.param == "llama":
        model = tiny_llama
    elif request.param == "gpt2":
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
        ).eval()
    else:
        model = tiny_encoder("bert")
    return model, deepcopy(model).double(), labelled(batches) if labels else batches, loss


def test_gradients_agree_with_float64(task):
    model, double, batches, loss = task
    _, expected = reference(double, batches, loss)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = mean_gradients(model, parameters, batches, "test")
    assert all(gradient.dtype == torch.float32 for gradient in found)
    assert any(gradient.any() for gradient in found)
    for name, gradient in zip(names, found, strict=True):
        assert agree(gradient, expected[name]), name


@pytest.mark.parametrize("task", ["gpt2", "bert", "bert without labels"], indirect=True)
def test_gradients_agree_with_finite_differences(task):
    # LLaMA is left out because it computes its norms in float32 for every dtype.
    model, double, batches, loss = task
    names, layers = zip(*list(all_layers(model).items())[:4], strict=True)
    found = mean_gradients(model, [layer.stored for layer in layers], batches, "test")
    for name, gradient in zip(names, found, strict=True):
        weight = double.get_submodule(name).weight.data
        at = divmod(int(gradient.abs().argmax()), gradient.shape[1])
        sides = []
        for step in (1e-5, -1e-5):
            weight[at] += step
            with torch.no_grad():
                sides.append(float(torch.cat([loss(double, b) for b in batches]).mean()))
            weight[at] -= step
        difference = (sides[0] - sides[1]) / 2e-5
        assert float(gradient[at]) == pytest.approx(difference, rel=1e-4)


def test_losses_agree_with_float64(task):
    model, double, batches, loss = task
    with torch.no_grad():
        found, counts = zip(*losses(model, batches, "test"), strict=True)
        expected = [loss(double, batch) for batch in batches]
    assert [float(value) for value in found] == pytest.approx(
        [float(values.mean()) for values in expected], rel=1e-5
    )
    assert list(counts) == [len(values) for values in expected]


@pytest.mark.parametrize("side", ["right", "left"])
def test_causal_model_ignores_padding(tiny_llama, batches, side):
    ids = batches[0]["input_ids"][:1, :9].clamp(min=1)
    padding = torch.zeros(1, 5, dtype=torch.long)
    ones = torch.ones_like(ids)
    parts = (ids, padding), (ones, padding)
    if side == "left":
        parts = tuple(part[::-1] for part in parts)
    padded = {
        "input_ids": torch.cat(parts[0], 1),
        "attention_mask": torch.cat(parts[1], 1),
    }
    plain = {"input_ids": ids, "attention_mask": ones}
    parameters = [layer.stored for layer in all_layers(tiny_llama).values()]
    expected = mean_gradients(tiny_llama, parameters, [plain], "test")
    for one, other in zip(
        mean_gradients(tiny_llama, parameters, [padded], "test"), expected, strict=True
    ):
        assert agree(one, other)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_classifier_ignores_padding(tiny_encoder, batches, kind):
    model = tiny_encoder(kind)
    plain = {key: value[:1] for key, value in labelled(batches)[0].items()}
    plain["input_ids"] = plain["input_ids"].clamp(min=1)
    padded = {
        "input_ids": torch.nn.functional.pad(plain["input_ids"], (0, 5)),
        "attention_mask": torch.nn.functional.pad(plain["attention_mask"], (0, 5)),
        "labels": plain["labels"],
    }
    parameters = [layer.stored for layer in all_layers(model).values()]
    expected = mean_gradients(model, parameters, [plain], "test")
    for one, other in zip(
        mean_gradients(model, parameters, [padded], "test"), expected, strict=True
    ):
        assert agree(one, other)


def test_causal_loss_uses_token_labels(tiny_llama, batches):
    assert is_causal(tiny_llama)
    ids = batches[0]["input_ids"]
    labels = ids.clone()
    labels[:, :6] = -100
    batch = {**batches[0], "labels": labels.masked_fill(batches[0]["attention_mask"] == 0, -100)}
    logits = tiny_llama(**inputs_of(batch)).logits
    logs = logits.detach().double().log_softmax(-1)
    expected = [
        -float(logs[row, i - 1, ids[row, i]])
        for row in range(len(ids))
        for i in range(6, int(batch["attention_mask"][row].sum()))
    ]
    found = task_loss(tiny_llama, batch, logits)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert found.item() == pytest.approx(tiny_llama(**batch).loss.item(), rel=1e-5)


def test_causal_loss_ignores_class_labels(tiny_llama, batches):
    logits = tiny_llama(**batches[0]).logits
    with_classes = {**batches[0], "labels": torch.tensor([1, 0, 1])}
    assert task_loss(tiny_llama, with_classes, logits) == task_loss(tiny_llama, batches[0], logits)


def test_classifier_loss_uses_its_labels(tiny_encoder, batches):
    model = tiny_encoder("bert")
    assert not is_causal(model)
    batch = labelled(batches)[0]
    logits = model(**inputs_of(batch)).logits
    found = task_loss(model, batch, logits)
    assert found.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    wrong = {**batch, "labels": 1 - batch["labels"]}
    assert task_loss(model, wrong, logits).item() != pytest.approx(found.item(), rel=1e-3)
    assert task_loss(model, inputs_of(batch), logits) <= found


def test_unused_parameter_has_gradient_zero(tiny_llama, batches):
    stray = torch.nn.Parameter(torch.ones(3))
    assert mean_gradients(tiny_llama, [stray], batches, "test")[0].tolist() == [0.0] * 3


def test_gradients_are_computed_under_no_grad_and_not_stored(tiny_llama, batches):
    weight = next(iter(all_layers(tiny_llama).values())).stored
    with torch.no_grad():
        found = mean_gradients(tiny_llama, [weight], batches, "test")[0]
    assert found.any()
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in tiny_llama.parameters())


def test_no_batch_raises(tiny_llama):
    with pytest.raises(CompressionError, match="at least one batch"):
        mean_gradients(tiny_llama, list(tiny_llama.parameters()), [], "test")


def test_loss_that_is_not_finite_raises(tiny_llama, batches):
    with torch.no_grad():
        tiny_llama.lm_head.weight.fill_(float("inf"))
    with pytest.raises(CompressionError, match="not finite"):
        mean_gradients(tiny_llama, list(tiny_llama.parameters()), batches, "test")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_absolute_products_of_weight_and_gradient(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, generator=generator).to(dtype)
    gradient = torch.randn(3, 5, generator=generator)
    scores = taylor_scores(weight, gradient)
    assert scores.dtype == torch.float32
    for i in range(3):
        for j in range(5):
            expected = abs(float(weight[i, j]) * float(gradient[i, j]))
            assert float(scores[i, j]) == pytest.approx(expected, rel=1e-6)


def test_score_is_the_first_order_change_of_a_quadratic_loss():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(4, dtype=torch.float64, generator=generator)
    centre = torch.randn(4, dtype=torch.float64, generator=generator)
    scores = taylor_scores(weight[None], (weight - centre)[None])[0]
    for j in range(4):
        without = weight.clone()
        without[j] = 0.0
        change = 0.5 * float((without - centre).square().sum() - (weight - centre).square().sum())
        assert float(scores[j]) == pytest.approx(
            abs(change - 0.5 * float(weight[j]) ** 2), rel=1e-6
        )


def test_step_prunes_the_lowest_scores(tiny_llama, batches):
    from compression_gates.compression.apply import compress

    double = deepcopy(tiny_llama).double()
    _, expected = reference(double, batches, next_token_loss)
    compress(tiny_llama, Recipe.parse("taylor-50"), batches)
    before = all_layers(double)
    for name, layer in all_layers(tiny_llama).items():
        if name == "lm_head":
            continue
        gradient = layer_view(before[name], expected[f"{name}.weight"])
        scores = (before[name].weight.detach() * gradient).abs()
        pruned = layer.weight == 0
        assert int(pruned.sum()) == pruned.numel() // 2
        # Scores closer than the float32 rounding may change places.
        assert float(scores[pruned].max()) <= float(scores[~pruned].min()) * 1.01
