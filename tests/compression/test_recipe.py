import tomllib

import pytest

from compression.errors import RecipeError
from compression.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("wanda-50", '{ method = "wanda", sparsity = 0.5 }'),
        ("magnitude-12.5", '{ method = "magnitude", sparsity = 0.125 }'),
        ("magnitude-0", '{ method = "magnitude", sparsity = 0 }'),
        ("sparsegpt-100", '{ method = "sparsegpt", sparsity = 1.0 }'),
        ("sparsegpt-2:4", '{ method = "sparsegpt", pattern = "2:4" }'),
        ("rtn-int8", '{ method = "rtn", bits = 8 }'),
    ],
)
def test_a_string_and_a_table_say_the_same(text, table):
    parsed = Recipe.parse(tomllib.loads(f"recipe = {table}")["recipe"])
    assert parsed == Recipe.parse(text)
    assert parsed.name == text


def test_a_name_and_layers_can_be_given():
    recipe = Recipe.parse({"method": "wanda", "sparsity": 0.5, "include": ["*mlp*"], "name": "ffn"})
    assert (recipe.name, recipe.include) == ("ffn", ("*mlp*",))
    assert "name" not in recipe.settings()


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("wanda", "not METHOD-AMOUNT"),
        ("wander-50", "did you mean 'wanda'"),
        ("wanda-101", "not a share between 0 and 1"),
        ("wanda-4:4", "not N:M"),
        ("wanda-int8", "'bits' is not known"),
        ("rtn-int4", "bits = 4 is not supported"),
        ({"sparsity": 0.5}, "names no method"),
        ({"method": "wanda"}, "exactly one of sparsity, pattern"),
        ({"method": "wanda", "sparsity": 0.5, "pattern": "2:4"}, "exactly one"),
        ({"method": "wanda", "sparcity": 0.5}, "did you mean 'sparsity'"),
        ({"method": "wanda", "sparsity": "half"}, "'half' is not a share"),
        ({"method": "wanda", "sparsity": True}, "True is not a share"),
        ({"method": "wanda", "sparsity": 0.5, "include": "mlp"}, "not a list of name patterns"),
        ({"method": 3}, "method 3 is not known"),
        (7, "string or a table"),
    ],
)
def test_nonsense_is_refused_in_one_line(source, complaint):
    with pytest.raises(RecipeError, match=complaint) as caught:
        Recipe.parse(source)
    assert "\n" not in str(caught.value)
