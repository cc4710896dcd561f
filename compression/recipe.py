"""Recipes: what to do to a model, as data.

A recipe is one or more steps. It is written as a string, as a TOML table, or as a list of either,
and all say the same::

    "wanda-50"                     { method = "wanda", sparsity = 0.5 }
    "sparsegpt-2:4"                { method = "sparsegpt", pattern = "2:4" }
    "gptq-int4,group=32"           { method = "gptq", bits = 4, group = 32 }
    "wanda-50+gptq-int4"           ["wanda-50", { method = "gptq", bits = 4 }]
    "svd,energy=0.9,include=*mlp*" { method = "svd", energy = 0.9, include = ["*mlp*"] }

A table ``{ steps = [...], name = "..." }`` gives a recipe a name of its own, and so does ``name``
in the table of a single step. :mod:`compression.catalogue` lists methods and settings.
"""

import difflib
import re
import reprlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from compression_gates.compression.catalogue import (
    CALIBRATION,
    GRADIENTS,
    METHODS,
    NOTHING,
    STRUCTURED,
    TRAINING,
    Method,
    load_entry_points,
)
from compression_gates.compression.errors import RecipeError
from compression_gates.compression.settings import text_of

_AMOUNTS = {
    "bits": re.compile(r"int(\d{1,9})", re.IGNORECASE),
    "pattern": re.compile(r"(\d{1,9}:\d{1,9})"),
    "layers": re.compile(r"(\d{1,9})layers", re.IGNORECASE),
    "sparsity": re.compile(r"(\d{1,9}(?:\.\d{1,9})?)"),
    "ratio": re.compile(r"(\d{1,9}(?:\.\d{1,9})?)"),
}
"""How a setting is written behind the method's name; the last two in percent."""
_PERCENT = ("sparsity", "ratio")


@dataclass(frozen=True)
class Step:
    """One method with all its settings, on the layers that its patterns choose."""

    method: str
    given: tuple[tuple[str, object], ...]
    """The settings that differ from the defaults, by name, sorted."""

    @property
    def entry(self) -> Method:
        """The method's entry in the catalogue."""
        return METHODS[self.method]

    @property
    def settings(self) -> dict[str, object]:
        """Every setting, defaults included."""
        defaults = {name: setting.default for name, setting in self.entry.all_settings.items()}
        return defaults | dict(self.given)

    def __getitem__(self, name: str) -> object:
        return self.settings[name]

    @property
    def name(self) -> str:
        """The step as a string; parsing it gives the step again, unless a text in it, a path say,
        holds a comma or a plus or reads as a number."""
        given = dict(self.given)
        parts = [self.method]
        for setting in _AMOUNTS:
            if setting in given and _in_name(self.entry, setting):
                parts[0] += f"-{_amount_text(setting, given.pop(setting))}"
        return ",".join([*parts, *(f"{key}={text_of(value)}" for key, value in given.items())])


@dataclass(frozen=True)
class Recipe:
    """One or more steps, applied in turn.

    Raises:
        RecipeError: no step, or a name that is not one line or that of a control.
    """

    steps: tuple[Step, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if not self.steps:
            raise RecipeError("a recipe needs at least one step")
        if not self.name:
            object.__setattr__(self, "name", "+".join(step.name for step in self.steps))
        if not self.name.isprintable() or self.name.startswith("control-"):
            raise RecipeError(
                f"recipe: name = {self.name!r}; a name is one line and does not begin with control-"
            )

    @property
    def needs_data(self) -> bool:
        """Whether a step needs to see text."""
        return any(needs_data(step) for step in self.steps)

    def settings(self) -> list[object]:
        """What determines the result: everything but the name. Fit for JSON."""
        return [
            [step.method, step.settings, *([version] if (version := step.entry.version) else [])]
            for step in self.steps
        ]

    @classmethod
    def parse(cls, source: object) -> "Recipe":
        """The recipe of a string, a table or a list of steps.

        Raises:
            RecipeError: names what is wrong, and the nearest known word.
        """
        name = ""
        if isinstance(source, Mapping) and ("steps" in source or "name" in source):
            source = dict(source)
            name = source.pop("name", "")
            if not isinstance(name, str):
                raise RecipeError(f"recipe: name = {name!r} is not a text")
            if "steps" in source:
                steps = source.pop("steps")
                if source:
                    raise RecipeError(
                        f"recipe: {next(iter(source))!r} beside steps; put it into a step"
                    )
                source = steps
                if not isinstance(source, list | tuple):
                    raise RecipeError(f"recipe: steps = {steps!r} is not a list")
        return cls(tuple(_steps(source)), name)


def _short(value: object) -> str:
    """A value as it may stand in a line, however long or deep it is."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = 120
    return shortened.repr(value)


def needs_data(step: Step) -> bool:
    """Whether a step needs to see text; units by magnitude, say, do not."""
    if step.entry.needs == GRADIENTS and "score" in step.settings:
        return step["score"] != "magnitude"
    return step.entry.needs != NOTHING


def trains(step: Step) -> bool:
    """Whether a step trains on its data."""
    return step.entry.needs == TRAINING


def calibrates(step: Step) -> bool:
    """Whether a step looks at the inputs of its layers."""
    return step.entry.needs == CALIBRATION


def _steps(source: object) -> Iterable[Step]:
    if isinstance(source, str):
        for text in source.split("+"):
            yield _step(_table_of(text))
    elif isinstance(source, Mapping):
        yield _step(source)
    elif isinstance(source, list | tuple):
        for part in source:
            if isinstance(part, list | tuple):
                raise RecipeError(f"a step is a string or a table, not {_short(part)}")
            yield from _steps(part)
    else:
        raise RecipeError(f"a recipe is a string, a table or a list of them, not {source!r}")


def _table_of(text: str) -> dict[str, object]:
    """The table of a step's string ``METHOD[-AMOUNT][,SETTING=VALUE]...``."""
    head, *rest = text.strip().split(",")
    method, _, amount = head.partition("-")
    method = method.lower()
    _known_method(method)
    table: dict[str, object] = {"method": method}
    if amount:
        table |= _amount(METHODS[method], amount, text)
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise RecipeError(f"recipe {text!r}: {part!r} is not SETTING=VALUE")
        if key in table:
            raise RecipeError(f"recipe {text!r}: {key} is given twice")
        table[key.strip()] = _value(value.strip())
    return table


def _in_name(method: Method, setting: str) -> bool:
    """Whether a setting is written right behind the method's name."""
    return setting in method.amounts or (setting == "layers" and setting in method.settings)


def _amount(method: Method, amount: str, text: str) -> dict[str, object]:
    usable = [setting for setting in _AMOUNTS if _in_name(method, setting)]
    for setting in usable:
        match = _AMOUNTS[setting].fullmatch(amount)
        if match:
            if setting in _PERCENT:
                return {setting: _share(method, setting, match[1], text)}
            return {setting: match[1] if setting == "pattern" else int(match[1])}
    examples = {"bits": "int4", "pattern": "2:4", "layers": "2layers"}
    forms = " or ".join(f"{method.name}-{examples.get(name, '50')}" for name in usable)
    raise RecipeError(
        f"recipe {text!r}: {method.name} is written {forms or method.name} "
        "with ,SETTING=VALUE behind it"
    )


def _share(method: Method, setting: str, percent: str, text: str) -> float:
    """The share that an amount in percent stands for.

    Raises:
        RecipeError: more than everything, or so little that a share was written for a percentage.
    """
    number = Decimal(percent)
    if number > 100:
        raise RecipeError(f"recipe {text!r}: {percent} % of the weights are more than all")
    if 0 < number < 1:
        does = "keeps" if setting == "ratio" else "prunes"
        what = "units" if method.family == STRUCTURED else "weights"
        meant = f"{(number * 100).normalize():f}" if number * 100 >= 1 else "50"
        raise RecipeError(
            f"recipe {text!r}: {method.name}-{percent} {does} {percent} % of the {what}; for "
            f"{meant} % write {method.name}-{meant}"
        )
    return float(number / 100)


def _amount_text(setting: str, value: object) -> str:
    if setting in _PERCENT:
        return f"{(Decimal(repr(value)) * 100).normalize():f}"
    return {"bits": "int{}", "layers": "{}layers", "pattern": "{}"}[setting].format(text_of(value))


def _value(text: str) -> object:
    """A number or true or false where it reads as one, else the text itself."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # of tomllib: not TOML, or brackets without end
        return text
    return value if isinstance(value, bool | int | float) else text


def _step(table: Mapping[str, object]) -> Step:
    if "method" not in table:
        raise RecipeError(f"step {dict(table)} names no method; known: {', '.join(METHODS)}")
    name = table["method"]
    name = name.lower() if isinstance(name, str) else name
    _known_method(name)
    method = METHODS[name]
    known = method.all_settings
    values = {}
    for key, value in table.items():
        if key == "method":
            continue
        _known(key, known, f"{name}: setting")
        try:
            values[key] = known[key].read(value)
        except ValueError as error:
            raise RecipeError(f"{name}: {key} = {_short(value)} is not {error}") from None
    amounts = [key for key in method.amounts if key in values]
    if method.amounts and len(amounts) != 1:
        raise RecipeError(f"{name}: give exactly one of {', '.join(method.amounts)}")
    given = {key: value for key, value in values.items() if value != known[key].default}
    # An amount always stands in the name, even where it is the default.
    given |= {key: values[key] for key in amounts}
    return Step(name, tuple(sorted(given.items())))


def _known_method(word: object) -> None:
    """Raises a RecipeError unless a method has this name; other distributions are asked last."""
    if word not in list(METHODS):
        load_entry_points()
    _known(word, METHODS, "method")


def _known(word: object, known: Iterable[str], what: str) -> None:
    known = list(known)
    if word not in known:
        near = difflib.get_close_matches(str(word), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise RecipeError(f"{what} {word!r} is not known; {hint}")
