"""Profiles and recipes."""

import tomllib
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
import tomli_w

from compression_gates.compression.recipe import Recipe
from compression_gates.fixtures.suite.matrix import candidates
from compression_gates.fixtures.suite.profile import read_profile
from tests.fuzz.mutations import mutated_bytes, mutated_json

PROFILES = sorted((Path(__file__).parents[2] / "fixtures" / "profiles").glob("*.toml"))
RECIPES = ("wanda-60", "sparsegpt-2:4", "gptq-int4,group=32", "wanda-50+gptq-int4,group=32",
           "rtn-int8,include=*mlp*|*attn*,activations=true", "distill-2layers,data=text",
           "svd-50", "heads-25,score=taylor", "magnitude-50,scope=global")  # fmt: skip


class Profiles:
    """Reads other profiles than the one at ``path``."""

    def __init__(self, path: Path, folder: Path):
        self.content, self.file = path.read_bytes(), folder / "profile.toml"
        self.has_candidates = b"baselines" in self.content
        self.read(self.content)

    def __call__(self, rng: Random) -> None:
        content = mutated_bytes(rng, self.content)
        if rng.random() < 0.5:
            with suppress(TypeError, AttributeError, ValueError):  # TOML has no such value
                described = mutated_json(rng, tomllib.loads(self.content.decode()))
                content = tomli_w.dumps(described).encode()
        self.read(content)

    def read(self, content: bytes) -> None:
        self.file.write_bytes(content)
        profile = read_profile(str(self.file))
        if self.has_candidates:
            candidates(profile, planned=True)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles(each, tmp_path, path):
    each(15, Profiles, path, tmp_path, share=0)


class Recipes:
    """Reads other recipes."""

    def __call__(self, rng: Random) -> None:
        content = rng.choice(RECIPES).encode()
        Recipe.parse(mutated_bytes(rng, content).decode(errors="surrogateescape"))


def test_recipes(each):
    each(200, Recipes, share=0.1)
