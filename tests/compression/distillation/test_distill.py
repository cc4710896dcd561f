"""Students, recorded attention, and distillation steps."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from compression_gates.compression.apply import compress
from compression_gates.compression.architectures.models import ARCHITECTURES
from compression_gates.compression.architectures.trial import calibration, tokenizer
from compression_gates.compression.checkpoint.saving import save
from compression_gates.compression.distillation.attention import record_attention
from compression_gates.compression.distillation.student import layer_map, make_student
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.gradients import inputs_of
from compression_gates.compression.model.layers import backbone_layers
from compression_gates.compression.recipe import Recipe


@pytest.fixture
def labelled(batches):
    return [{**batch, "labels": torch.tensor([0, 1, 0])} for batch in batches]


def with_large_weights(model):
    """Multiply the weights of all layers, so that the layers compute different functions."""
    with torch.no_grad():
        for layer in backbone_layers(model).values():
            layer.weight.mul_(8)
    return model


def apply(model, text, batches):
    return compress(model, Recipe.parse(text), batches).model


def test_layer_map_is_uniform_and_ends_with_the_last_layer():
    assert layer_map(2, 12) == [6, 12]
    assert layer_map(4, 12) == [3, 6, 9, 12]
    assert layer_map(12, 12) == list(range(1, 13))
    for student in range(1, 13):
        layers = layer_map(student, 12)
        assert layers[-1] == 12
        assert sorted(set(layers)) == layers


def test_student_of_the_same_depth_equals_its_teacher(tiny_encoder, batches):
    teacher = tiny_encoder("bert")
    student = make_student(teacher, 3)[0]
    with torch.no_grad():
        assert torch.equal(student(**batches[0]).logits, teacher(**batches[0]).logits)


def test_shorter_student_has_the_mapped_layers(tiny_encoder):
    teacher = tiny_encoder("roberta")
    student = make_student(teacher, 2)[0]
    assert student.config.num_hidden_layers == 2
    own, other = student.roberta.encoder.layer, teacher.roberta.encoder.layer
    for layer, source in zip(own, (other[1], other[2]), strict=True):
        for tensor, expected in zip(layer.parameters(), source.parameters(), strict=True):
            assert torch.equal(tensor, expected)
    assert student.config is not teacher.config
    assert teacher.config.num_hidden_layers == 3


def test_student_with_shared_layers_uses_them_less_often(tiny_encoder, batches):
    teacher = tiny_encoder("albert")
    student = make_student(teacher, 1)[0]
    assert len(list(student.parameters())) == len(list(teacher.parameters()))
    with torch.no_grad():
        hidden = teacher(**batches[0], output_hidden_states=True).hidden_states[1]
        own = student(**batches[0], output_hidden_states=True).hidden_states[1]
    assert torch.allclose(own, hidden, atol=1e-6)


def test_layer_is_initialized_from_the_nearest_layer_of_the_same_kind():
    """Every second layer is a mixture: the student's first layer is dense, its second a mixture."""
    teacher = ARCHITECTURES["nllb_moe"].make(
        encoder_layers=4, decoder_layers=4, encoder_sparse_step=4, decoder_sparse_step=4
    )
    _, origins = make_student(teacher, 2)
    dense = [n for n in origins if n.startswith("model.encoder.layers.")]
    assert all(origins[n].split(".")[3] in "12" for n in dense)  # the last is a mixture
    teacher = ARCHITECTURES["switch_transformers"].make()
    student, origins = make_student(teacher, 1)
    for name, origin in origins.items():
        assert teacher.state_dict()[origin].shape == student.state_dict()[name].shape
    number = {origins[n].split(".")[2] for n in origins if n.startswith("encoder.block.0.")}
    assert len(number) == 1  # of one layer, not of two


def test_only_the_position_bias_is_copied_from_the_first_layer():
    teacher = ARCHITECTURES["t5"].make()
    _, origins = make_student(teacher, 1)
    first = [n for n, origin in origins.items() if "block.0" in origin]
    assert first
    assert all("relative_attention_bias" in name for name in first)


def test_depth_without_a_layer_of_the_same_kind_raises(batches):
    model = ARCHITECTURES["jamba"].make(num_hidden_layers=2, attn_layer_offset=0)
    model.model.layers[0] = model.model.layers[1]  # no attention layer is left
    with pytest.raises(RecipeError, match=r"has the tensors of model\.layers\.0"):
        make_student(model, 1)
    with pytest.raises(RecipeError, match="num_hidden_layers of FunnelForSequence"):
        apply(ARCHITECTURES["funnel"].make(), "magnitude-50+distill-1layers,steps=1", batches)


def test_student_without_attention_is_trained_and_saved(tmp_path):
    model = ARCHITECTURES["jamba"].make()
    recipe = Recipe.parse("distill-1layers,steps=2,loss=response|labels")
    result = compress(model, recipe, calibration(model))
    assert not any("self_attn" in name for name in result.model.state_dict())
    save(result, tokenizer(), tmp_path / "out")


def test_student_of_a_multimodal_model_has_fewer_text_layers(tmp_path):
    model = ARCHITECTURES["gemma3_vision"].make()
    result = compress(model, Recipe.parse("distill-1layers,steps=2"), calibration(model))
    assert result.model.config.text_config.num_hidden_layers == 1
    assert result.model.config.vision_config.num_hidden_layers == 2
    save(result, tokenizer(), tmp_path / "out")


def test_tied_embeddings_remain_tied(tiny_llama):
    student = make_student(tiny_llama, 1)[0]
    assert student.lm_head.weight is student.get_input_embeddings().weight


def test_recorded_attention_agrees_with_the_eager_maps(tiny_encoder, tiny_llama, batches):
    for model in (tiny_encoder("bert"), tiny_llama):
        with torch.no_grad():
            with record_attention(model) as recorded:
                logits = model(**batches[0]).logits
            assert torch.equal(model(**batches[0]).logits, logits)
            model.set_attn_implementation("eager")
            maps = model(**batches[0], output_attentions=True).attentions
        assert len(recorded) == len(maps)
        rows = batches[0]["attention_mask"].bool()
        for attention, expected in zip(recorded, maps, strict=True):
            own = attention.probabilities.transpose(1, 2)[rows]
            assert torch.allclose(own, expected.transpose(1, 2)[rows], atol=1e-5)


@pytest.mark.parametrize(
    "loss", ["labels", "response", "feature", "layerwise", "attention", "relations"]
)
def test_training_lowers_the_loss(tiny_encoder, labelled, loss):
    from compression_gates.compression.distillation.step import DistillationLoss

    teacher = with_large_weights(tiny_encoder("bert"))
    step = Recipe.parse(f"distill-2layers,loss={loss},steps=30,learning_rate=0.003").steps[0]

    def after(steps):
        student = make_student(teacher, 2)[0]
        if steps:
            recipe = f"distill-2layers,loss={loss},steps={steps},learning_rate=0.003"
            student = apply(copy.deepcopy(teacher), recipe, labelled)
        with torch.no_grad():
            total = DistillationLoss(student, teacher, step)
            return sum(float(total(batch)) for batch in labelled)

    assert after(30) < 0.9 * after(0)


def test_causal_student_approaches_its_teacher(tiny_llama, batches):
    before = make_student(tiny_llama, 1)[0]
    after = apply(
        copy.deepcopy(tiny_llama), "distill-1layers,steps=40,learning_rate=0.003", batches
    )
    mask = batches[0]["attention_mask"].bool()
    with torch.no_grad():
        expected = tiny_llama(**batches[0]).logits[mask].log_softmax(-1)
        errors = [
            (model(**batches[0]).logits[mask].log_softmax(-1) - expected).abs().mean()
            for model in (before, after)
        ]
    assert errors[1] < 0.9 * errors[0]


def test_result_depends_on_the_seed_only(tiny_encoder, labelled):
    def weights(seed):
        model = apply(tiny_encoder("bert"), f"distill-2layers,steps=4,seed={seed}", labelled)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_masks_are_preserved_and_the_teacher_is_the_dense_model(tiny_encoder, labelled):
    dense = with_large_weights(tiny_encoder("bert"))
    result = compress(
        copy.deepcopy(dense), Recipe.parse("wanda-2:4+distill,steps=60,learning_rate=0.001"),
        labelled,
    )  # fmt: skip
    pruned = compress(copy.deepcopy(dense), Recipe.parse("wanda-2:4"), labelled)
    zeros = {n: layer.weight == 0 for n, layer in backbone_layers(pruned.model).items()}
    for name, layer in backbone_layers(result.model).items():
        assert not layer.weight[zeros[name]].any()
    batch = inputs_of(labelled[0])
    with torch.no_grad():
        expected = dense(**batch).logits
        errors = [
            (model(**batch).logits - expected).abs().mean()
            for model in (pruned.model, result.model)
        ]
    assert errors[1] < errors[0]
    assert result.teacher is None


def test_student_is_saved_as_a_plain_checkpoint(tiny_llama, batches, tmp_path):
    from compression_gates.compression.checkpoint.saving import form_of, save
    from compression_gates.fixtures.world import tokenizers as vocabulary

    result = compress(tiny_llama, Recipe.parse("distill-1layers,steps=2"), batches)
    assert form_of(result) == "plain"
    save(result, vocabulary.causal(64), tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").num_hidden_layers == 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(loaded(**batches[0]).logits, result.model(**batches[0]).logits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distill-4layers", "layers = 4, but the model has 3"),
        ("distill-2layers,include=*query", "the whole student is trained"),
        ("svd-50+distill-2layers", "copies layers that an earlier step has resized"),
        ("rtn-int8+distill-2layers", "moves quantized weights off their grid"),
    ],
)
def test_invalid_distillation_raises(tiny_encoder, labelled, text, message):
    with pytest.raises(RecipeError, match=message):
        apply(tiny_encoder("bert"), text, labelled)
