import pytest

from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.layers import selected_layers
from compression_gates.compression.recipe import Recipe


def names(model, **settings):
    recipe = Recipe.parse({"method": "magnitude", "sparsity": 0.5, **settings})
    return list(selected_layers(model, recipe.steps[0]))


def test_the_head_is_left_alone_unless_named(tiny_llama):
    assert len(names(tiny_llama)) == 2 * 7
    assert "lm_head" not in names(tiny_llama)
    assert names(tiny_llama, include=["lm_head"]) == ["lm_head"]


@pytest.mark.parametrize(
    ("kind", "layers"), [("bert", 3 * 6 + 1), ("roberta", 3 * 6), ("albert", 1 + 6 + 1)]
)
def test_classifier_heads_are_left_alone(tiny_encoder, kind, layers):
    found = names(tiny_encoder(kind))
    assert len(found) == layers
    assert not any("classifier" in name for name in found)


def test_patterns_choose(tiny_llama):
    assert len(names(tiny_llama, include=["*mlp*"])) == 2 * 3
    assert len(names(tiny_llama, include=["*mlp*"], exclude=["*.0.*"])) == 3
    assert len(names(tiny_llama, exclude=["*q_proj"])) == 2 * 6


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(tiny_llama, key):
    with pytest.raises(RecipeError, match=r"'\*ffn\*' matches no linear layer"):
        names(tiny_llama, **{key: ["*ffn*"]})


def test_nothing_left_is_an_error(tiny_llama):
    with pytest.raises(RecipeError, match="no layer of LlamaForCausalLM is left"):
        names(tiny_llama, exclude=["*"])
