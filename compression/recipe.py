"""Recipes: what to do to a model, as data.

A recipe is written as a TOML table or as a string, and the two say the same::

    { method = "wanda", sparsity = 0.5 }          "wanda-50"
    { method = "sparsegpt", pattern = "2:4" }     "sparsegpt-2:4"
    { method = "rtn", bits = 8 }                  "rtn-int8"

A table may also name the layers, by shell-style patterns on module names, and itself::

    { method = "wanda", sparsity = 0.5, include = ["*mlp*"], exclude = ["*.0.*"], name = "ffn" }
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from compression.errors import RecipeError

PRUNERS = ("magnitude", "wanda", "sparsegpt")
METHODS = (*PRUNERS, "rtn")
_SETTINGS = {
    **dict.fromkeys(PRUNERS, ("sparsity", "pattern")),
    "rtn": ("bits",),
}
_COMMON = ("method", "include", "exclude", "name")
_STRING = re.compile(r"(?P<method>[a-z]+)-(?P<amount>int\d+|\d+:\d+|\d+(\.\d+)?)")


def _known(word: str, words: tuple[str, ...], what: str) -> None:
    if word not in words:
        near = difflib.get_close_matches(str(word), words, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(words)}"
        raise RecipeError(f"{what} {word!r} is not known; {hint}")


@dataclass(frozen=True)
class Recipe:
    """One compression step: a method, how much, and on which layers.

    Exactly one of ``sparsity`` (a share), ``pattern`` (kept, of) and ``bits`` is set.
    """

    method: str
    sparsity: float | None = None
    pattern: tuple[int, int] | None = None
    bits: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            patterns = [f"+{p}" for p in self.include] + [f"-{p}" for p in self.exclude]
            object.__setattr__(self, "name", "".join([f"{self.method}-{self.amount}", *patterns]))

    @property
    def amount(self) -> str:
        if self.bits is not None:
            return f"int{self.bits}"
        if self.pattern is not None:
            return f"{self.pattern[0]}:{self.pattern[1]}"
        return f"{self.sparsity * 100:g}"

    @property
    def needs_calibration(self) -> bool:
        return self.method in ("wanda", "sparsegpt")

    def settings(self) -> dict[str, object]:
        """What determines the result: everything but the name."""
        return {key: value for key, value in vars(self).items() if key != "name"}

    @classmethod
    def parse(cls, source: "str | Mapping[str, object]") -> "Recipe":
        """The recipe of a string or a table.

        Raises:
            RecipeError: names what is wrong, and the nearest known word.
        """
        table = _table_of(source) if isinstance(source, str) else source
        if not isinstance(table, Mapping):
            raise RecipeError(f"a recipe is a string or a table, not {table!r}")
        if "method" not in table:
            raise RecipeError(f"recipe {dict(table)} names no method; known: {', '.join(METHODS)}")
        method = table["method"]
        _known(method, METHODS, "method")
        for key in table:
            _known(key, (*_COMMON, *_SETTINGS[method]), f"{method}: setting")
        amounts = [key for key in _SETTINGS[method] if key in table]
        if len(amounts) != 1:
            raise RecipeError(f"{method}: give exactly one of {', '.join(_SETTINGS[method])}")
        amount = amounts[0]
        name = table.get("name", "")
        if not isinstance(name, str):
            raise RecipeError(f"{method}: name = {name!r} is not a string")
        return cls(
            method=method,
            **{amount: _READERS[amount](method, table[amount])},
            include=_names(method, "include", table.get("include", [])),
            exclude=_names(method, "exclude", table.get("exclude", [])),
            name=name,
        )


def _table_of(text: str) -> dict[str, object]:
    match = _STRING.fullmatch(text)
    if not match:
        raise RecipeError(
            f"recipe {text!r} is not METHOD-AMOUNT, such as wanda-50, wanda-2:4 or rtn-int8"
        )
    method, amount = match["method"], match["amount"]
    if amount.startswith("int"):
        return {"method": method, "bits": int(amount[3:])}
    if ":" in amount:
        return {"method": method, "pattern": amount}
    return {"method": method, "sparsity": float(amount) / 100}


def _sparsity(method: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RecipeError(f"{method}: sparsity = {value!r} is not a share between 0 and 1")
    return float(value)


def _pattern(method: str, value: object) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", value) if isinstance(value, str) else None
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise RecipeError(f"{method}: pattern = {value!r} is not N:M with 0 < N < M, such as 2:4")
    return int(match[1]), int(match[2])


def _bits(method: str, value: object) -> int:
    if value != 8 or isinstance(value, bool):
        raise RecipeError(f"{method}: bits = {value!r} is not supported; give 8")
    return 8


def _names(method: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(x, str) for x in value):
        raise RecipeError(f"{method}: {key} = {value!r} is not a list of name patterns")
    return tuple(value)


_READERS = {"sparsity": _sparsity, "pattern": _pattern, "bits": _bits}
