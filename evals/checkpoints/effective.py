"""Configurations as transformers acts on them: a ``config.json`` with the defaults of its class."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PretrainedConfig

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.models.configurations import load_config


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


def _declared(kind: type[PretrainedConfig]) -> set[str]:
    """Settings that a class names: its fields, and in code of older versions its arguments."""
    arguments = {
        name
        for base in kind.__mro__
        if issubclass(base, PretrainedConfig) and "__init__" in vars(base)
        for name in inspect.signature(base.__init__).parameters
    }
    return {field.name for field in dataclasses.fields(kind)} | arguments - {"self", "kwargs"}
