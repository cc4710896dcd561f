import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gates.compression.catalogue import METHODS
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("wanda-50", '{ method = "wanda", sparsity = 0.5 }'),
        ("magnitude-12.5", '{ method = "magnitude", sparsity = 0.125 }'),
        ("magnitude-0", '{ method = "magnitude", sparsity = 0 }'),
        ("sparsegpt-100", '{ method = "sparsegpt", sparsity = 1.0 }'),
        ("sparsegpt-2:4", '{ method = "sparsegpt", pattern = "2:4" }'),
        ("rtn-int8", '{ method = "rtn", bits = 8 }'),
        ("gptq-int4,act_order=true,group=32",
         '{ method = "gptq", bits = 4, group = 32, act_order = true }'),
        ("svd,energy=0.9", '{ method = "svd", energy = 0.9 }'),
        ("wanda-50,exclude=*.0.*,include=*mlp*|*attn*",
         '{ method = "wanda", sparsity = 0.5, exclude = ["*.0.*"], include = "*mlp*|*attn*" }'),
        ("distill-2layers,loss=response|attention:0.5",
         '{ method = "distill", layers = 2, loss = { attention = 0.5, response = 1 } }'),
        ("wanda-50+gptq-int4", '["wanda-50", { method = "gptq", bits = 4 }]'),
        ("wanda-2:4+rtn-int4", '{ steps = ["wanda-2:4", "rtn-int4"] }'),
    ],
)  # fmt: skip
def test_string_and_table_are_equivalent(text, table):
    parsed = Recipe.parse(tomllib.loads(f"recipe = {table}")["recipe"])
    assert parsed == Recipe.parse(text)
    assert parsed.name == text


def _amounts(method):
    choices = {
        "bits": st.integers(2, 8),
        "sparsity": st.just(0.0) | st.integers(10, 1000).map(lambda n: n / 1000),
        "ratio": st.integers(10, 1000).map(lambda n: n / 1000),
        "energy": st.integers(10, 1000).map(lambda n: n / 1000),
        "pattern": st.sampled_from(["1:4", "2:4", "4:8"]),
    }
    if not method.amounts:
        return st.just({})
    return st.sampled_from(method.amounts).flatmap(
        lambda key: choices[key].map(lambda value: {key: value})
    )


STEPS = st.sampled_from(sorted(METHODS)).flatmap(
    lambda name: _amounts(METHODS[name]).flatmap(
        lambda amount: st.fixed_dictionaries(
            {},
            optional={
                "include": st.lists(st.sampled_from(["*mlp*", "*.0.*"]), min_size=1),
                **({"group": st.integers(2, 64)} if "group" in METHODS[name].settings else {}),
                **({"seed": st.integers(0, 9)} if "seed" in METHODS[name].all_settings else {}),
                **({"damping": st.floats(1e-4, 1)} if "damping" in METHODS[name].settings else {}),
            },
        ).map(lambda more: {"method": name, **amount, **more})
    )
)


@given(st.lists(STEPS, min_size=1, max_size=3))
def test_parsing_the_name_returns_the_recipe(tables):
    recipe = Recipe.parse(tables)
    assert Recipe.parse(recipe.name) == recipe


def test_explicit_defaults():
    assert Recipe.parse("gptq-int4,act_order=false") == Recipe.parse("gptq-int4")


@pytest.mark.parametrize(
    "source",
    [
        {"method": "wanda", "sparsity": 0.5, "include": ["*mlp*"], "name": "ffn"},
        {"steps": [{"method": "wanda", "sparsity": 0.5, "include": ["*mlp*"]}], "name": "ffn"},
    ],
)
def test_recipe_with_name_and_layers(source):
    recipe = Recipe.parse(source)
    assert recipe.name == "ffn"
    assert recipe.steps[0]["include"] == ("*mlp*",)
    unnamed = {key: value for key, value in source.items() if key != "name"}
    assert recipe.settings() == Recipe.parse(unnamed).settings()


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_valid(name):
    for key, setting in METHODS[name].all_settings.items():
        if setting.default is not None and setting.default != ():
            assert setting.validate(setting.default) == setting.default, key


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wanda", "exactly one of sparsity, pattern"),
        ("wander-50", "did you mean 'wanda'"),
        ("wanda-101", "the amount is 101 %, but at most 100 %"),
        ("wanda-0.5", "wanda-0.5 prunes 0.5 % of the weights; for 50 % write wanda-50"),
        ("wanda-0.005", "prunes 0.005 % of the weights; for 50 % write wanda-50"),
        ("svd-0.25", "svd-0.25 keeps 0.25 % of the weights; for 25 % write svd-25"),
        ("heads-0.3,score=taylor", "prunes 0.3 % of the units; for 30 % write heads-30"),
        ("wanda-4:2", "not N:M with 0 < N < M, such as 2:4; to keep 2 of every 4 give 2:4"),
        ("svd,energy=90", "not a share from 0.01 to 1; 90 % is 0.9"),
        ("smoothquant,alpha=50", "not a share between 0 and 1; 50 % is 0.5"),
        ("gptq-int4,damping=2", "not a number above 0 and up to 1"),
        ("distill,learning_rate=5", "not a number above 0 and up to 0.1"),
        ("movement-50,score_rate=3", "not a number above 0 and up to 1"),
        ("distill,temperature=1000", "not a number above 0 and up to 100"),
        ({"method": "wanda", "sparsity": 50}, "not a share from 0.01 to 1, or 0; 50 % is 0.5"),
        ({"method": "wanda", "sparsity": 0.005}, "not a share from 0.01 to 1, or 0; 0.5 % of the"),
        ({"method": "wanda", "sparsity": 1}, "for 1 % write 0.01, for all weights 1.0"),
        ({"method": "svd", "ratio": 50}, "not a share from 0.01 to 1; 50 % is 0.5"),
        ({"method": "svd", "ratio": 0}, "not a share from 0.01 to 1"),
        ("wanda-4:4", "not N:M"),
        ("wanda-int8", "write wanda-50 or wanda-2:4"),
        ("rtn-int9", "not an integer from 2 to 8"),
        ("rtn-int1", "not an integer from 2 to 8"),
        ("rtn-int4,groups=8", "did you mean 'group'"),
        ("rtn-int4,group", "'group' is not SETTING=VALUE"),
        ("rtn-int4,bits=8", "bits is given twice"),
        ("rtn-int4,scale=row", "not one of channel, tensor"),
        ("wanda-50+", "method '' is not known"),
        ("svd-50,energy=0.9", "exactly one of ratio, energy"),
        ("distill-2layers,loss=hidden", "weights above 0 for some of labels, response"),
        ("distill,translate=a", "a list of two strings"),
        ("gptq-int4,seed=-1", "an integer from 0 to"),
        ({"sparsity": 0.5}, "has no method"),
        ({"method": "wanda"}, "exactly one of sparsity, pattern"),
        ({"method": "wanda", "sparsity": 0.5, "pattern": "2:4"}, "exactly one"),
        ({"method": "wanda", "sparcity": 0.5}, "did you mean 'sparsity'"),
        ({"method": "wanda", "sparsity": "half"}, "not a share"),
        ({"method": "wanda", "sparsity": True}, "True is not a share"),
        ({"method": "wanda", "sparsity": 0.5, "include": 7}, "not a list of strings"),
        ({"method": "rtn", "bits": 8.0}, "not an integer"),
        ({"method": 3}, "method 3 is not known"),
        ({"method": ["wanda"]}, "is not known"),
        ({"steps": ["wanda-50"], "bits": 4}, "'bits' must be inside a step"),
        ({"steps": "wanda-50"}, "is not a list"),
        ({"method": "wanda", "sparsity": 0.5, "name": 5}, "not a string"),
        ([["wanda-50"]], "a step is a string or a table"),
        ([], "at least one step"),
        (7, "a string, a table or a list"),
    ],
)
def test_invalid_recipes(source, message):
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.parse(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opened", ["[", "{a=", "[{a=["])
def test_deeply_nested_brackets(opened):
    with pytest.raises(RecipeError, match="group = ") as caught:
        Recipe.parse(f"gptq-int4,group={opened * 2000}")
    assert len(str(caught.value)) < 300


def test_deeply_nested_lists():
    nested = "wanda-50"
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(RecipeError, match="a step is a string or a table"):
        Recipe.parse(nested)
