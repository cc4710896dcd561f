"""Whether a setting is a size of the model, by the shapes of its tensors."""

import copy
from collections.abc import Mapping

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from compression_gates.evals.errors import EvalError
from compression_gates.evals.guard import guarded
from compression_gates.evals.models.configurations import MODEL_CLASSES
from compression_gates.evals.models.warned import quiet

SECONDS = 60
"""Time limit of describing a model without its weights."""
MOST = 1 << 20
"""A value beyond which a setting is not tried, as a model of so many parts takes long to build."""
Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(config: PretrainedConfig, kind: str) -> Shapes | None:
    """Shapes of the parameters of a model by their names, without any memory for them; None where
    it cannot be built, or where its code is not that of transformers."""
    if not type(config).__module__.startswith("transformers."):
        return None
    try:
        with (
            quiet(),
            guarded("it cannot be built", SECONDS),
            torch.device("meta"),
        ):
            model = _model(copy.deepcopy(config), kind)
            return {name: tuple(p.shape) for name, p in model.named_parameters()}
    except EvalError:
        return None


def shapes_with(config: PretrainedConfig, kind: str, name: str, value: object) -> Shapes | None:
    """As :func:`shapes_of`, with one setting changed.

    Args:
        name: of the setting, behind the names of the configurations that nest it.
    """
    *outer, own = name.split(".")
    changed = part = copy.deepcopy(config)
    try:
        for nested in outer:
            part = getattr(part, nested)
        setattr(part, own, value)
    except Exception:  # a class may check what it is given
        return None
    return shapes_of(changed, kind)


def _model(config: PretrainedConfig, kind: str) -> PreTrainedModel:
    for name in config.architectures or ():
        known = getattr(transformers, str(name), None)
        if isinstance(known, type) and issubclass(known, PreTrainedModel):
            return known._from_config(config)
    auto = MODEL_CLASSES.get(kind, transformers.AutoModel)
    if type(config) not in auto._model_mapping:
        auto = transformers.AutoModel
    return auto.from_config(config)
