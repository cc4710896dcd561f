"""A student made from some of its teacher's layers, evenly chosen.

Student layer ``m`` of ``M`` starts as the teacher's layer ``g(m) = round(m N / M)`` of ``N``
(uniform mapping, Jiao et al. 2019, section 3.2; starting from the teacher as in DistilBERT).
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compression_gates.compression.errors import RecipeError
from compression_gates.compression.model.capture import forked_rng

_POSITION_BIAS = "relative_attention_bias"
DEPTHS = ("num_hidden_layers", "num_decoder_layers")


def layer_map(student: int, teacher: int) -> list[int]:
    """For each student layer, from 1 on, the teacher's layer that it follows, from 1 on."""
    return [round(m * teacher / student) for m in range(1, student + 1)]


def depth_of(model: PreTrainedModel) -> int:
    """How many layers a model says that it has.

    Raises:
        RecipeError: it does not say.
    """
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise RecipeError(f"distill: {type(model).__name__} does not say how many layers it has")
    return depth


def check_student(teacher: PreTrainedModel, layers: int) -> None:
    """Raises a RecipeError where :func:`make_student` would."""
    config = _shorter(teacher, layers)
    try:
        with torch.device("meta"):
            student = type(teacher)(config)
    except Exception:  # not every class can be built without numbers
        return
    _origins(teacher, student, layers)


def make_student(teacher: PreTrainedModel, layers: int) -> tuple[PreTrainedModel, dict[str, str]]:
    """A model of ``layers`` layers with weights of the teacher's, in evaluation mode, and for each
    of its tensors the name of the teacher's that it starts from.

    Raises:
        RecipeError: more layers than the teacher has, or a teacher whose layers are not found.
    """
    config = _shorter(teacher, layers)
    # What is drawn here is overwritten.
    with forked_rng(teacher.device), torch.device(teacher.device):
        student = type(teacher)(config).to(teacher.dtype).eval()
    origins = _origins(teacher, student, layers)
    source = teacher.state_dict()
    student.load_state_dict({name: source[origin] for name, origin in origins.items()})
    student.tie_weights()
    return student, origins


def _origins(teacher: PreTrainedModel, student: PreTrainedModel, layers: int) -> dict[str, str]:
    """The teacher's tensor that each of the student's starts from."""
    depth = depth_of(teacher)
    chosen = [index - 1 for index in layer_map(layers, depth)]
    stacks = [
        name
        for name, module in teacher.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
        and len(_at(student, name, ())) == layers
    ]  # fmt: skip
    source, own = teacher.state_dict(), student.state_dict()
    start = {
        f"{stack}.{number}": _alike(source, own, stack, number, index)
        for stack in stacks
        for number, index in enumerate(chosen)
    }
    origins = {}
    for name in own:
        layer = next((n for n in start if name.startswith(f"{n}.")), None)
        origin = name if layer is None else start[layer] + name[len(layer) :]
        if origin not in source and layer is not None and _POSITION_BIAS in name:
            origin = f"{layer.rpartition('.')[0]}.0{name[len(layer) :]}"
        if origin not in source:
            raise RecipeError(f"distill: the teacher has no {name} to start the student from")
        if source[origin].shape != own[name].shape:
            raise RecipeError(f"distill: {name} of a student of that depth has another shape")
        origins[name] = origin
    return origins


def _shorter(teacher: PreTrainedModel, layers: int) -> PretrainedConfig:
    """The teacher's configuration with fewer layers.

    Raises:
        RecipeError: more layers than the teacher has, or a configuration that does not take it.
    """
    depth = depth_of(teacher)
    if layers > depth:
        raise RecipeError(f"distill: layers = {layers}, but the model has {depth}")
    whole = copy.deepcopy(teacher.config)
    config = whole.get_text_config()
    for key in DEPTHS:
        if isinstance(getattr(config, key, None), int):
            try:
                setattr(config, key, layers)
            except (NotImplementedError, AttributeError) as error:
                raise RecipeError(
                    f"distill: {key} of {type(teacher).__name__} cannot be changed; "
                    "leave out the number of layers"
                ) from error
    for key, value in vars(config).items():
        # What a configuration says of each layer (sliding or full attention, say).
        if key.endswith("types") and isinstance(value, list) and len(value) == depth:
            setattr(config, key, [value[index - 1] for index in layer_map(layers, depth)])
    return whole


def _at(model: nn.Module, name: str, default):
    try:
        return model.get_submodule(name)
    except AttributeError:
        return default


def _alike(
    source: Mapping[str, Tensor], own: Mapping[str, Tensor], stack: str, number: int, index: int
) -> str:
    """The teacher's layer that a student's layer starts from: the one that is chosen, or where its
    kind is another (a mixture's, or one without attention) the nearest of the same kind."""
    wanted = _kind(own, f"{stack}.{number}.")
    layers = dict.fromkeys(n[len(stack) + 1 :].partition(".")[0] for n in source
                           if n.startswith(f"{stack}."))  # fmt: skip
    for other in sorted(map(int, layers), key=lambda other: abs(other - index)):
        if _kind(source, f"{stack}.{other}.") == wanted:
            return f"{stack}.{other}"
    raise RecipeError(
        f"distill: no layer of the teacher is like {stack}.{number} of a student of that depth; "
        "choose another number of layers"
    )


def _kind(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, torch.Size]:
    """Shapes of a layer's tensors, without the position bias that T5 has in its first layer."""
    return {
        name.removeprefix(prefix): tensor.shape
        for name, tensor in tensors.items()
        if name.startswith(prefix) and _POSITION_BIAS not in name
    }
