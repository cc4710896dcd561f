"""Movement pruning against equations 4 and 5, on classifiers of one or two layers."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn.utils import parametrize
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from compression_gates.compression.apply import compress
from compression_gates.compression.errors import CompressionError, RecipeError
from compression_gates.compression.model.layers import all_layers
from compression_gates.compression.pruning.movement import (
    COOL_DOWN,
    WARM_UP,
    Masked,
    _KeepMask,
    movement,
    scheduled_sparsity,
)
from compression_gates.compression.recipe import Recipe


class Config(PretrainedConfig):
    """Widths of the layers of a :class:`Classifier`."""

    model_type = "classifier-of-vectors"

    def __init__(self, widths=(8, 6, 2), **rest):
        self.widths = list(widths)
        super().__init__(**rest)


class Classifier(PreTrainedModel):
    """Linear layers with tanh between them; the inputs are vectors."""

    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        widths = config.widths
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairwise(widths))
        self.post_init()

    def forward(self, vectors):
        for layer in self.layers[:-1]:
            vectors = layer(vectors).tanh()
        return SequenceClassifierOutput(logits=self.layers[-1](vectors))


def classifier(widths=(8, 6, 2), seed=0):
    torch.manual_seed(seed)
    model = Classifier(Config(widths)).eval()
    for layer in model.layers:
        nn.init.normal_(layer.weight)
    return model


def batches_of(columns=8, count=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(columns, generator=generator)
    batches = []
    for _ in range(count):
        vectors = torch.randn(16, columns, generator=generator)
        batches.append({"vectors": vectors, "labels": (vectors @ direction > 0).long()})
    return batches


def step_of(text):
    return Recipe.parse(f"movement-{text}").steps[0]


def weights_of(model):
    return {name: layer.weight.detach().clone() for name, layer in all_layers(model).items()}


@given(st.integers(1, 400), st.integers(0, 400), st.floats(0, 1))
def test_sparsity_schedule_is_equation_5(steps, at, sparsity):
    """v_f + (v_i - v_f) (1 - (t - t_i) / (N Delta t))^3 between warm-up and cool-down, v_i = 0."""
    at = min(at, steps)
    begin, end = WARM_UP * steps, (1 - COOL_DOWN) * steps
    if at <= begin:
        expected = 0.0
    elif at >= end:
        expected = sparsity
    else:
        expected = sparsity + (0 - sparsity) * (1 - (at - begin) / (end - begin)) ** 3
    assert scheduled_sparsity(at / steps, sparsity) == pytest.approx(expected, abs=1e-12)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_sparsity_schedule_is_monotonic(first, second, sparsity):
    first, second = sorted((first, second))
    # The tolerance is one float64 rounding.
    assert scheduled_sparsity(first, sparsity) <= scheduled_sparsity(second, sparsity) + 1e-15


@pytest.mark.parametrize(
    ("sparsity", "soft"), [(0.0, False), (0.4, False), (1.0, False), (0.0, True)]
)
def test_gradient_of_the_scores_is_equation_4(sparsity, soft):
    generator = torch.Generator().manual_seed(0)
    weight, scores, target = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    weight.requires_grad_()
    scores.requires_grad_()
    inputs = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    masked = weight * _KeepMask.apply(scores, sparsity, soft)
    masked.retain_grad()
    (inputs @ masked.T).tanh().sub(inputs @ target.T).square().sum().backward()
    assert masked.grad.all()
    assert torch.equal(scores.grad, masked.grad * weight.detach())
    mask = (masked != 0).double()
    assert torch.equal(weight.grad, masked.grad * mask)
    ranks = scores.flatten().argsort().argsort().view(4, 5)
    kept = scores > 0 if soft else ranks >= round(sparsity * 20)
    assert torch.equal(mask.bool(), kept)


def test_score_rises_when_the_weight_moves_away_from_zero():
    layer = Masked(torch.tensor([[2.0, -2.0, 2.0, -2.0]]), soft=False)
    weight = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    (layer(weight) * torch.tensor([-1.0, -1.0, 1.0, 1.0])).sum().backward()
    assert (-layer.scores.grad).sign().tolist() == [[1.0, -1.0, -1.0, 1.0]]


@pytest.mark.parametrize("soft", [True, False])
def test_initial_mask_keeps_every_weight(soft):
    weight = torch.randn(3, 4)
    assert torch.equal(Masked(weight, soft)(weight), weight)


def test_large_weights_that_shrink_are_pruned():
    """Figure 1 of the paper: magnitude prunes small weights, movement prunes shrinking ones."""
    batches = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        labels = torch.arange(32) % 2
        sign = 2.0 * labels - 1
        noise = torch.randn(32, 4, generator=generator) * 0.3
        batches.append({"vectors": sign[:, None] + noise, "labels": labels})
    model = classifier((4, 2))
    # The inputs have the sign of the label. Two large weights have the wrong sign and shrink; two
    # small weights have the right sign and grow.
    row = torch.tensor([-0.5, -0.5, 0.1, 0.1])
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.stack([-row, row]))
    before = model.layers[0].weight.detach().clone()
    layers = all_layers(model)
    masks = movement(model, layers, batches, step_of("50,steps=40,learning_rate=0.005"))
    after = model.layers[0].weight.detach()
    large = torch.tensor([True, True, False, False]).expand(2, 4)
    assert (after.abs() < before.abs())[large].all()
    assert (after.abs() > before.abs())[~large].all()
    # Magnitude pruning would keep the shrunken weights, which are still the largest.
    assert after[large].abs().min() > after[~large].abs().max()
    assert torch.equal(masks["layers.0"], large)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.37, 0.5, 0.9, 1.0])
def test_hard_movement_prunes_each_layer_exactly(sparsity):
    model = classifier()
    layers = all_layers(model)
    masks = movement(model, layers, batches_of(), step_of(f"{sparsity * 100:g},steps=12"))
    assert masks.keys() == layers.keys()
    for name, mask in masks.items():
        assert mask.shape == layers[name].weight.shape
        assert int(mask.sum()) == round(sparsity * mask.numel())


@pytest.mark.parametrize("sparsity", [0.1, 0.37, 0.5, 0.9])
def test_soft_movement_prunes_all_layers_together_exactly(sparsity):
    model = classifier((8, 6, 2))
    layers = all_layers(model)
    masks = movement(model, layers, batches_of(), step_of(f"{sparsity * 100:g},steps=30,soft=true"))
    sizes = [mask.numel() for mask in masks.values()]
    pruned = [int(mask.sum()) for mask in masks.values()]
    assert sum(pruned) == round(sparsity * sum(sizes))


def test_soft_movement_prunes_layers_differently():
    model = classifier((8, 6, 2))
    masks = movement(
        model, all_layers(model), batches_of(), step_of("50,steps=60,soft=true,score_rate=0.05")
    )
    assert len({float(mask.float().mean()) for mask in masks.values()}) == 2


class RecordingClassifier(Classifier):
    """Records the mask of its first layer in each forward pass."""

    def forward(self, vectors):
        self.masks = [*getattr(self, "masks", []), self.layers[0].weight.detach() == 0]
        return super().forward(vectors)


def test_mask_follows_the_schedule_during_training():
    torch.manual_seed(0)
    model = RecordingClassifier(Config()).eval()
    movement(model, all_layers(model), batches_of(), step_of("60,steps=20"))
    expected = [round(48 * scheduled_sparsity(step / 20, 0.6)) for step in range(20)]
    assert [int(mask.sum()) for mask in model.masks] == expected
    assert expected[0] == 0
    assert expected[-1] == round(0.6 * 48)


def test_penalty_pushes_scores_of_a_dead_feature_below_the_threshold():
    torch.manual_seed(0)
    model = RecordingClassifier(Config()).eval()
    batches = batches_of()
    for batch in batches:
        batch["vectors"][:, 3] = 0.0
    movement(model, all_layers(model), batches, step_of("50,steps=40,soft=true,score_rate=0.02"))
    # Only the penalty moves the scores of the dead feature, by about their learning rate in each
    # step, from 0.1 to below 0.
    assert not model.masks[0].any()
    assert model.masks[-1][:, 3].all()
    assert not model.masks[-1].all()


@pytest.mark.parametrize("soft", ["true", "false"])
def test_step_zeroes_pruned_weights_and_trains_the_others(soft):
    model = classifier()
    before = weights_of(model)
    compress(
        model,
        Recipe.parse(f"movement-50,steps=20,soft={soft},include=layers.*"),
        batches_of(),
    )
    zeros = 0
    for name, after in weights_of(model).items():
        kept = after != 0
        zeros += int((~kept).sum())
        assert (after[kept] != before[name][kept]).all()
    assert zeros == 30


def test_layers_that_are_not_selected_are_trained_but_not_pruned():
    model = classifier()
    before = weights_of(model)
    compress(model, Recipe.parse("movement-50,steps=20,include=layers.1"), batches_of())
    after = weights_of(model)
    assert (after["layers.0"] != before["layers.0"]).all()
    assert after["layers.0"].all()
    assert int((after["layers.1"] == 0).sum()) == 6


def test_movement_has_a_lower_loss_than_magnitude():
    def loss(model):
        with torch.no_grad():
            return sum(
                nn.functional.cross_entropy(model(batch["vectors"]).logits, batch["labels"]).item()
                for batch in batches_of()
            )

    model, plain = classifier(), classifier()
    recipe = "50,include=layers.*"
    compress(plain, Recipe.parse(f"magnitude-{recipe}"))
    compress(model, Recipe.parse(f"movement-{recipe},steps=150,learning_rate=0.05"), batches_of())
    assert loss(model) < loss(plain)


@pytest.mark.parametrize("soft", ["true", "false"])
def test_result_depends_on_the_seed_only(soft):
    results = []
    for seed in (0, 0, 1):
        model = classifier()
        step = step_of(f"50,steps=20,seed={seed},soft={soft}")
        masks = movement(model, all_layers(model), batches_of(), step)
        results.append((weights_of(model), masks))
    for name in results[0][0]:
        assert torch.equal(results[0][0][name], results[1][0][name])
        assert torch.equal(results[0][1][name], results[1][1][name])
    assert any(not torch.equal(results[0][0][name], results[2][0][name]) for name in results[0][0])


def test_parametrizations_are_removed():
    model = classifier()
    names = list(model.state_dict())
    types = [type(module) for module in model.modules()]
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    movement(model, all_layers(model), batches_of(), step_of("50,steps=10"))
    assert list(model.state_dict()) == names
    assert [type(module) for module in model.modules()] == types
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_parametrizations_are_removed_after_an_error():
    model = classifier()
    names = list(model.state_dict())
    batches = batches_of(count=1)
    batches[0]["vectors"][0, 0] = float("nan")
    with pytest.raises(CompressionError, match="not finite"):
        movement(model, all_layers(model), batches, step_of("50,steps=10"))
    assert list(model.state_dict()) == names
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_gradients_are_cleared():
    model = classifier()
    movement(model, all_layers(model), batches_of(), step_of("50,steps=5"))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_batch_raises():
    model = classifier()
    with pytest.raises(CompressionError, match="at least one batch"):
        movement(model, all_layers(model), [], step_of("50,steps=5"))
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_layer_tied_to_an_embedding_raises(tiny_llama, batches):
    with pytest.raises(RecipeError, match="tied to an embedding"):
        compress(tiny_llama, Recipe.parse("movement-50,steps=2,include=lm_head"), batches)


def test_causal_model_is_pruned_exactly(tiny_llama, batches):
    compress(tiny_llama, Recipe.parse("movement-50,steps=4"), batches)
    for name, layer in all_layers(tiny_llama).items():
        if name != "lm_head":
            assert int((layer.weight == 0).sum()) == layer.weight.numel() // 2


def test_mask_of_a_transposed_layer_has_rows_of_outputs():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    ).eval()
    ids = torch.randint(1, 32, (4, 10), generator=torch.Generator().manual_seed(0))
    layers = {name: layer for name, layer in all_layers(model).items() if "h.0" in name}
    masks = movement(model, layers, [{"input_ids": ids}], step_of("25,steps=6"))
    for name, mask in masks.items():
        assert layers[name].transposed
        assert mask.shape == layers[name].weight.shape
        assert int(mask.sum()) == mask.numel() // 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("soft", ["true", "false"])
def test_half_precision_is_trained_and_finite(dtype, soft):
    model = classifier().to(dtype)
    before = weights_of(model)
    batches = [{**batch, "vectors": batch["vectors"].to(dtype)} for batch in batches_of()]
    recipe = Recipe.parse(f"movement-50,steps=20,learning_rate=0.01,soft={soft},include=layers.*")
    compress(model, recipe, batches)
    for name, after in weights_of(model).items():
        assert after.dtype == dtype
        assert after.isfinite().all()
        assert (after[after != 0] != before[name][after != 0]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dead_feature_leaves_weights_finite(dtype):
    model = classifier().to(dtype)
    batches = batches_of()
    for batch in batches:
        batch["vectors"][:, 3] = 0.0
        batch["vectors"] = batch["vectors"].to(dtype)
    masks = movement(model, all_layers(model), batches, step_of("50,steps=10"))
    assert all(weight.isfinite().all() for weight in weights_of(model).values())
    assert int(masks["layers.0"].sum()) == 24
