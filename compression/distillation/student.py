"""A student made from some of its teacher's layers, evenly chosen.

Student layer ``m`` of ``M`` starts as the teacher's layer ``g(m) = round(m N / M)`` of ``N``
(uniform mapping, Jiao et al. 2019, section 3.2; starting from the teacher as in DistilBERT).
"""

import copy

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.capture import own_luck

DEPTHS = ("num_hidden_layers", "num_decoder_layers")


def layer_map(student: int, teacher: int) -> list[int]:
    """For each student layer, from 1 on, the teacher's layer that it follows, from 1 on."""
    return [round(m * teacher / student) for m in range(1, student + 1)]


def make_student(teacher: PreTrainedModel, layers: int) -> tuple[PreTrainedModel, dict[str, str]]:
    """A model of ``layers`` layers with weights of the teacher's, in evaluation mode, and for each
    of its tensors the name of the teacher's that it starts from.

    Raises:
        RecipeError: more layers than the teacher has, or a teacher whose layers are not found.
    """
    depth = getattr(teacher.config, "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise RecipeError(f"distill: {type(teacher).__name__} does not say how many layers it has")
    if layers > depth:
        raise RecipeError(f"distill: layers = {layers}, but the teacher has {depth}")
    config = _shorter(teacher.config, layers)
    # What is drawn here is overwritten, and nobody else's luck is to change by it.
    with own_luck(teacher.device), torch.device(teacher.device):
        student = type(teacher)(config).to(teacher.dtype).eval()
    chosen = [index - 1 for index in layer_map(layers, depth)]
    stacks = [
        name
        for name, module in teacher.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
        and len(_at(student, name, ())) == layers
    ]  # fmt: skip
    source = teacher.state_dict()
    origins = {}
    for name in student.state_dict():
        # T5 keeps its position bias in the first layer alone.
        found = [n for n in _source_names(name, stacks, chosen) if n in source]
        if not found:
            raise RecipeError(f"distill: the teacher has no {name} to start the student from")
        origins[name] = found[0]
    student.load_state_dict({name: source[origin] for name, origin in origins.items()})
    student.tie_weights()
    return student, origins


def _shorter(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    config = copy.deepcopy(config)
    depth = config.num_hidden_layers
    for key in DEPTHS:
        if isinstance(getattr(config, key, None), int):
            setattr(config, key, layers)
    for key, value in vars(config).items():
        # What a configuration says of each layer (sliding or full attention, say).
        if key.endswith("types") and isinstance(value, list) and len(value) == depth:
            setattr(config, key, [value[index - 1] for index in layer_map(layers, depth)])
    return config


def _at(model: nn.Module, name: str, default):
    try:
        return model.get_submodule(name)
    except AttributeError:
        return default


def _source_names(name: str, stacks: list[str], chosen: list[int]) -> list[str]:
    """What the teacher may call the student's ``name``: in the chosen layer, or in the first."""
    for stack in stacks:
        if name.startswith(f"{stack}."):
            index, _, rest = name[len(stack) + 1 :].partition(".")
            return [f"{stack}.{chosen[int(index)]}.{rest}", f"{stack}.0.{rest}"]
    return [name]
