"""Configurations as transformers acts on them: a ``config.json`` with the defaults of its class."""

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transformers import PretrainedConfig

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.models.configurations import load_config
from compression_gates.evals.models.warned import recorded_warnings


@dataclass(frozen=True)
class Part:
    """A configuration, or one that it nests such as ``text_config``, without those it nests.

    Attributes:
        config: the object of transformers.
        values: settings by the names that all architectures share, where there is one.
        declared: names of the settings that its class has; the class ignores others, as a rule.
    """

    config: PretrainedConfig
    values: Mapping[str, object]
    declared: frozenset[str]


def parts_of(checkpoint: Checkpoint, trust_remote_code: bool = False) -> dict[str, Part]:
    """The parts of a checkpoint's configuration by the prefix of their names, ``""`` the whole.

    Of an adapter, they are those of its base.

    Raises:
        EvalError: transformers does not take the configuration.
    """
    return dict(_parts(load_config(checkpoint, trust_remote_code)))


def _parts(config: PretrainedConfig, prefix: str = "") -> list[tuple[str, Part]]:
    nested = {name: getattr(config, name, None) for name in config.sub_configs}
    nested = {name: part for name, part in nested.items() if isinstance(part, PretrainedConfig)}
    shared = {own: name for name, own in type(config).attribute_map.items() if own != name}
    # The round trip makes names of dtypes and lists of tuples.
    written = json.loads(config.to_json_string(use_diff=False))
    values = {
        shared.get(name, name): value for name, value in written.items() if name not in nested
    }
    declared = frozenset(shared.get(name, name) for name in _declared(type(config)))
    found = [(prefix, Part(config, values, declared))]
    for name, part in nested.items():
        found += _parts(part, f"{prefix}{name}.")
    return found


@cache
def _declared(kind: type[PretrainedConfig]) -> frozenset[str]:
    """Settings that a class names: its fields, in code of older versions its arguments, and what
    it sets by itself."""
    arguments = {
        name
        for base in kind.__mro__
        if issubclass(base, PretrainedConfig) and "__init__" in vars(base)
        for name in inspect.signature(base.__init__).parameters
    }
    own: set[str] = set()
    with recorded_warnings(), suppress(Exception):  # a class may need arguments
        own = set(kind().to_dict())
    fields = {field.name for field in dataclasses.fields(kind)}
    return frozenset(fields | own | arguments - {"self", "kwargs"})


@cache
def is_read(kind: type[PretrainedConfig], name: str) -> bool:
    """Whether the code of a model reads a setting, which its configuration need not name."""
    file = Path(inspect.getfile(kind))
    code = file.with_name(file.name.replace("configuration_", "modeling_"))
    if not kind.__module__.startswith("transformers.models.") or not code.is_file():
        return False
    own = re.escape(name)
    reading = rf"""config\.{own}\b|getattr\([\w.]*config, ["']{own}["']"""
    return bool(re.search(reading, _text(code)))


@cache
def _text(code: Path) -> str:
    return code.read_text()
