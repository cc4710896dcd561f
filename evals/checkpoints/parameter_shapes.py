"""Shapes of the parameters of a model, computed without allocating memory for them."""

import copy
from collections.abc import Mapping

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from compression_gates.evals.errors import EvalError
from compression_gates.evals.guard import guarded
from compression_gates.evals.models.configurations import MODEL_CLASSES
from compression_gates.evals.models.library_output import quiet

SECONDS = 60
"""Time limit of building a model without its weights."""
LARGEST = 1 << 20
"""Largest value of a setting that is tried: a model with more parts takes too long to build."""
Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(config: PretrainedConfig, kind: str) -> Shapes | None:
    """Return the shapes of a model's parameters by name.

    None if the model cannot be built, or if its code is not part of transformers.
    """
    if not type(config).__module__.startswith("transformers."):
        return None
    try:
        with quiet(), guarded("it cannot be built", SECONDS), torch.device("meta"):
            model = _model(copy.deepcopy(config), kind)
            return {name: tuple(p.shape) for name, p in model.named_parameters()}
    except EvalError:
        return None


def shapes_with(config: PretrainedConfig, kind: str, name: str, value: object) -> Shapes | None:
    """Return :func:`shapes_of` with one setting changed, or None if the configuration refuses it.

    Args:
        config: the configuration, which is not modified.
        kind: kind of the model.
        name: name of the setting, prefixed by the names of the configurations it is nested in.
        value: the new value.
    """
    *outer, setting = name.split(".")
    changed = part = copy.deepcopy(config)
    try:
        for nested in outer:
            part = getattr(part, nested)
        setattr(part, setting, value)
    except Exception:  # classes validate settings with various exceptions
        return None
    return shapes_of(changed, kind)


def _model(config: PretrainedConfig, kind: str) -> PreTrainedModel:
    for name in config.architectures or ():
        model_class = getattr(transformers, str(name), None)
        if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
            return model_class._from_config(config)
    auto = MODEL_CLASSES.get(kind, transformers.AutoModel)
    if type(config) not in auto._model_mapping:
        auto = transformers.AutoModel
    return auto.from_config(config)
