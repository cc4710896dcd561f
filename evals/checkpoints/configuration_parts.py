"""Configurations as transformers uses them: ``config.json`` with the defaults of its class."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transformers import PretrainedConfig

from compression_gates.evals.models.library_output import recorded_warnings


@dataclass(frozen=True)
class Part:
    """A configuration, or a nested one such as ``text_config``, without the ones nested in it.

    Attributes:
        config: the object of transformers.
        values: settings, by the name that all architectures share if there is one.
        declared: names of the settings that the class declares; it usually ignores others.
    """

    config: PretrainedConfig
    values: Mapping[str, object]
    declared: frozenset[str]


def parts_of(config: PretrainedConfig) -> dict[str, Part]:
    """Return the parts of a configuration.

    The keys are prefixes of the names of settings: ``""`` for the configuration itself, and for
    example ``"text_config."`` for a nested one.
    """
    return dict(_parts(config))


def _parts(config: PretrainedConfig, prefix: str = "") -> Iterator[tuple[str, Part]]:
    nested = {name: getattr(config, name, None) for name in config.sub_configs}
    nested = {name: part for name, part in nested.items() if isinstance(part, PretrainedConfig)}
    shared = {own: name for name, own in type(config).attribute_map.items() if own != name}
    # Writing and reading JSON converts dtypes to their names, and tuples to lists.
    written = json.loads(config.to_json_string(use_diff=False))
    values = {
        shared.get(name, name): value for name, value in written.items() if name not in nested
    }
    declared = frozenset(shared.get(name, name) for name in _declared(type(config)))
    yield prefix, Part(config, values, declared)
    for name, part in nested.items():
        yield from _parts(part, f"{prefix}{name}.")


@cache
def _declared(config_class: type[PretrainedConfig]) -> frozenset[str]:
    """Return the settings that a class declares.

    These are its fields, the arguments of ``__init__`` (in code for older versions of
    transformers), and the attributes that it sets itself.
    """
    arguments = {
        name
        for base in config_class.__mro__
        if issubclass(base, PretrainedConfig) and "__init__" in vars(base)
        for name in inspect.signature(base.__init__).parameters
    }
    attributes: set[str] = set()
    with recorded_warnings(), suppress(Exception):  # a class may require arguments
        attributes = set(config_class().to_dict())
    fields = {field.name for field in dataclasses.fields(config_class)}
    return frozenset(fields | attributes | arguments - {"self", "kwargs"})


@cache
def is_read(config_class: type[PretrainedConfig], name: str) -> bool:
    """Return whether the model code reads a setting, even if the class does not declare it."""
    file = Path(inspect.getfile(config_class))
    code = file.with_name(file.name.replace("configuration_", "modeling_"))
    if not config_class.__module__.startswith("transformers.models.") or not code.is_file():
        return False
    setting = re.escape(name)
    access = rf"""config\.{setting}\b|getattr\([\w.]*config, ["']{setting}["']"""
    return bool(re.search(access, code.read_text()))
