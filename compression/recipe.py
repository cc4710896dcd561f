"""Recipes: the compression steps to apply to a model, as data.

A recipe is one or more steps. It is written as a string, as a TOML table, or as a list of either;
these are equivalent::

    "wanda-50"                     { method = "wanda", sparsity = 0.5 }
    "sparsegpt-2:4"                { method = "sparsegpt", pattern = "2:4" }
    "gptq-int4,group=32"           { method = "gptq", bits = 4, group = 32 }
    "wanda-50+gptq-int4"           ["wanda-50", { method = "gptq", bits = 4 }]
    "svd,energy=0.9,include=*mlp*" { method = "svd", energy = 0.9, include = ["*mlp*"] }

A table ``{ steps = [...], name = "..." }`` names a recipe, and so does ``name`` in the table of a
single step. :mod:`compression.catalogue` lists methods and settings.
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
from compression_gates.compression.method_settings import text_of

_PERCENT = r"\d{1,9}(?:\.\d{1,9})?"
_AMOUNTS = {
    "bits": ("int{}", r"\d{1,9}", "4"),
    "sparsity": ("{}", _PERCENT, "50"),
    "pattern": ("{}", r"\d{1,9}:\d{1,9}", "2:4"),
    "ratio": ("{}", _PERCENT, "50"),
    "layers": ("{}layers", r"\d{1,9}", "2"),
}
"""The settings that can follow the name of a method: format, syntax and example of the value."""


@dataclass(frozen=True)
class Step:
    """One method with its settings, applied to the layers that its patterns select."""

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
        """The step as a string. Parsing it returns the step, unless a string setting, such as a
        path, contains a comma or a plus or is a number."""
        given = dict(self.given)
        parts = [self.method]
        for setting in _AMOUNTS:
            if setting in given and _in_name(self.entry, setting):
                parts[0] += f"-{_amount_text(setting, given.pop(setting))}"
        return ",".join([*parts, *(f"{key}={text_of(value)}" for key, value in given.items())])


@dataclass(frozen=True)
class Recipe:
    """One or more steps, applied in order.

    Raises:
        RecipeError: no step, or a name that is not printable or is reserved for a control.
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
                f"recipe: name = {self.name!r} must be printable, on one line, and not begin with "
                "control-"
            )

    @property
    def needs_data(self) -> bool:
        """Whether any step needs data."""
        return any(needs_data(step) for step in self.steps)

    def settings(self) -> list[object]:
        """Return everything that determines the result, ready for JSON. The name does not."""
        return [
            [step.method, step.settings, *([version] if (version := step.entry.version) else [])]
            for step in self.steps
        ]

    @classmethod
    def parse(cls, source: object) -> "Recipe":
        """Parse a string, a table or a list of steps.

        Raises:
            RecipeError: names the invalid part, and the nearest valid name.
        """
        name = ""
        if isinstance(source, Mapping):
            source = dict(source)
            name = source.pop("name", "")
            if not isinstance(name, str):
                raise RecipeError(f"recipe: name = {name!r} is not a string")
            if "steps" in source:
                steps = source.pop("steps")
                if source:
                    raise RecipeError(f"recipe: {next(iter(source))!r} must be inside a step")
                if not isinstance(steps, list | tuple):
                    raise RecipeError(f"recipe: steps = {steps!r} is not a list")
                source = steps
        return cls(tuple(_steps(source)), name)


def _short(value: object) -> str:
    """Return the repr of a value, shortened to fit in a message."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = 120
    return shortened.repr(value)


def needs_data(step: Step) -> bool:
    """Return whether a step needs data. Scoring units by magnitude does not, for example."""
    if step.entry.needs == GRADIENTS and "score" in step.settings:
        return step["score"] != "magnitude"
    return step.entry.needs != NOTHING


def trains(step: Step) -> bool:
    """Return whether a step trains on its data."""
    return step.entry.needs == TRAINING


def calibrates(step: Step) -> bool:
    """Return whether a step uses the inputs of its layers."""
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
    """Parse ``METHOD[-AMOUNT][,SETTING=VALUE]...`` into a table."""
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
            raise RecipeError(f"recipe {text!r}: {key} is given twice; give it once")
        table[key.strip()] = _value(value.strip())
    return table


def _in_name(method: Method, setting: str) -> bool:
    """Return whether a setting can follow the name of the method."""
    return setting in method.amounts or (setting == "layers" and setting in method.settings)


def examples(method: Method) -> list[str]:
    """Return an example of a step for each setting that can follow the name of the method."""
    amounts = [form.format(x) for key, (form, _, x) in _AMOUNTS.items() if _in_name(method, key)]
    return [f"{method.name}-{amount}" for amount in amounts] or [method.name]


def _amount(method: Method, amount: str, text: str) -> dict[str, object]:
    for setting, (form, syntax, _) in _AMOUNTS.items():
        match = re.fullmatch(form.format(f"({syntax})"), amount, re.IGNORECASE)
        if match and _in_name(method, setting):
            if syntax == _PERCENT:
                return {setting: _share(method, setting, match[1], text)}
            return {setting: match[1] if setting == "pattern" else int(match[1])}
    raise RecipeError(
        f"recipe {text!r}: {amount!r} is not an amount of {method.name}; write "
        f"{' or '.join(examples(method))}, followed by any ,SETTING=VALUE"
    )


def _share(method: Method, setting: str, percent: str, text: str) -> float:
    """Convert an amount in percent to a share.

    Raises:
        RecipeError: above 100 %, or below 1 %, where a share was probably written as a percentage.
    """
    number = Decimal(percent)
    if number > 100:
        raise RecipeError(f"recipe {text!r}: the amount is {percent} %, but at most 100 % is valid")
    if 0 < number < 1:
        verb = "keeps" if setting == "ratio" else "prunes"
        noun = "units" if method.family == STRUCTURED else "weights"
        intended = f"{(number * 100).normalize():f}" if number * 100 >= 1 else "50"
        raise RecipeError(
            f"recipe {text!r}: {method.name}-{percent} {verb} {percent} % of the {noun}; for "
            f"{intended} % write {method.name}-{intended}"
        )
    return float(number / 100)


def _amount_text(setting: str, value: object) -> str:
    form, syntax, _ = _AMOUNTS[setting]
    if syntax == _PERCENT:
        return f"{(Decimal(repr(value)) * 100).normalize():f}"
    return form.format(text_of(value))


def _value(text: str) -> object:
    """Parse a number or boolean; return any other text unchanged."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # not TOML, or deeply nested brackets
        return text
    return value if isinstance(value, bool | int | float) else text


def _step(table: Mapping[str, object]) -> Step:
    if "method" not in table:
        raise RecipeError(f"step {dict(table)} has no method; give one of {', '.join(METHODS)}")
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
            values[key] = known[key].validate(value)
        except ValueError as error:
            raise RecipeError(f"{name}: {key} = {_short(value)} is not {error}") from None
    amounts = [key for key in method.amounts if key in values]
    if method.amounts and len(amounts) != 1:
        raise RecipeError(
            f"{name}: give exactly one of {', '.join(method.amounts)}, as in "
            f"{' or '.join(examples(method))}"
        )
    given = {key: value for key, value in values.items() if value != known[key].default}
    # The name of a step contains its amount even if that is the default.
    given |= {key: values[key] for key in amounts}
    return Step(name, tuple(sorted(given.items())))


def _known_method(word: object) -> None:
    """Raise a RecipeError unless a method has this name, after loading entry points if needed."""
    if word not in list(METHODS):
        load_entry_points()
    _known(word, METHODS, "method")


def _known(word: object, known: Iterable[str], kind: str) -> None:
    known = list(known)
    if word not in known:
        near = difflib.get_close_matches(str(word), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise RecipeError(f"{kind} {word!r} is not known; {hint}")


NO_CHANGE = Recipe.parse("magnitude-0")
"""The recipe that changes no weight."""
