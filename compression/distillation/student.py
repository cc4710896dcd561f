"""A student made from evenly spaced layers of its teacher.

Layer ``m`` of ``M`` layers of the student is initialized from layer ``g(m) = round(m N / M)`` of
``N`` layers of the teacher. The uniform mapping is that of Jiao et al. 2019, section 3.2;
initializing from the teacher is that of DistilBERT (Sanh et al. 2019).
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
    """Return ``g(m)``, the layer of the teacher for each layer of the student, counted from 1.

    Args:
        student, teacher: numbers of layers.
    """
    return [round(m * teacher / student) for m in range(1, student + 1)]


def depth_of(model: PreTrainedModel) -> int:
    """Return the number of layers in a model's configuration.

    Raises:
        RecipeError: the configuration has no ``num_hidden_layers``.
    """
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise RecipeError(
            f"distill: the configuration of {type(model).__name__} has no num_hidden_layers, which "
            "distillation needs"
        )
    return depth


def check_student(teacher: PreTrainedModel, layers: int) -> None:
    """Raise the RecipeErrors of :func:`make_student`, as far as they can be found in advance."""
    config = _shorter_config(teacher, layers)
    try:
        with torch.device("meta"):
            student = type(teacher)(config)
    except Exception:  # some classes cannot be built on the meta device
        return
    _origins(teacher, student, layers)


def make_student(teacher: PreTrainedModel, layers: int) -> tuple[PreTrainedModel, dict[str, str]]:
    """Return a student in evaluation mode, and where its tensors come from.

    Args:
        teacher: a model, which is not changed.
        layers: number of layers of the student.

    Returns:
        The student, and for each of its tensors the name of the teacher's tensor that it copies.

    Raises:
        RecipeError: the teacher has fewer layers, its configuration cannot be changed, or it has
            no layer with the tensors that a layer of the student needs.
    """
    config = _shorter_config(teacher, layers)
    # The random initialization is overwritten.
    with forked_rng(teacher.device), torch.device(teacher.device):
        student = type(teacher)(config).to(teacher.dtype).eval()
    origins = _origins(teacher, student, layers)
    source = teacher.state_dict()
    student.load_state_dict({name: source[origin] for name, origin in origins.items()})
    student.tie_weights()
    return student, origins


def _origins(teacher: PreTrainedModel, student: PreTrainedModel, layers: int) -> dict[str, str]:
    """Return the name of the teacher's tensor for each tensor of the student."""
    depth = depth_of(teacher)
    indices = [index - 1 for index in layer_map(layers, depth)]
    student_modules = dict(student.named_modules())
    stacks = [
        name
        for name, module in teacher.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
        and len(student_modules.get(name, ())) == layers
    ]  # fmt: skip
    sources, targets = teacher.state_dict(), student.state_dict()
    layer_origins = {
        f"{stack}.{number}": _nearest_layer(sources, targets, stack, number, index)
        for stack in stacks
        for number, index in enumerate(indices)
    }
    origins = {}
    for name, target in targets.items():
        layer = next((n for n in layer_origins if name.startswith(f"{n}.")), None)
        origin = name if layer is None else layer_origins[layer] + name[len(layer) :]
        if origin not in sources and layer is not None and _POSITION_BIAS in name:
            origin = f"{layer.rpartition('.')[0]}.0{name[len(layer) :]}"
        if origin not in sources:
            raise RecipeError(
                f"distill: the teacher has no tensor for {name} of a student of {layers} layers; "
                "choose another number of layers"
            )
        if sources[origin].shape != target.shape:
            raise RecipeError(
                f"distill: {name} of a student of {layers} layers has another shape than the "
                f"teacher's {origin}; choose another number of layers"
            )
        origins[name] = origin
    return origins


def _shorter_config(teacher: PreTrainedModel, layers: int) -> PretrainedConfig:
    """Return a copy of the teacher's configuration with another number of layers.

    Raises:
        RecipeError: the teacher has fewer layers, or its configuration cannot be changed.
    """
    depth = depth_of(teacher)
    if layers > depth:
        raise RecipeError(f"distill: layers = {layers}, but the model has {depth}")
    student_config = copy.deepcopy(teacher.config)
    config = student_config.get_text_config()
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
        # Lists with an entry for each layer, such as layer_types.
        if key.endswith("types") and isinstance(value, list) and len(value) == depth:
            setattr(config, key, [value[index - 1] for index in layer_map(layers, depth)])
    return student_config


def _nearest_layer(
    sources: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    stack: str,
    number: int,
    index: int,
) -> str:
    """Return the name of the teacher's layer nearest to ``index`` with the same tensors.

    Layers of one stack can differ, for example in a mixture with some dense layers.
    """
    shapes = _layer_shapes(targets, f"{stack}.{number}.")
    prefix = f"{stack}."
    numbers = {int(n[len(prefix) :].partition(".")[0]) for n in sources if n.startswith(prefix)}
    for other in sorted(numbers, key=lambda other: (abs(other - index), other)):
        if _layer_shapes(sources, f"{stack}.{other}.") == shapes:
            return f"{stack}.{other}"
    raise RecipeError(
        f"distill: no layer of the teacher has the tensors of {stack}.{number} of the student; "
        "choose another number of layers"
    )


def _layer_shapes(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, torch.Size]:
    """Return the shapes of a layer's tensors, without the position bias of T5's first layer."""
    return {
        name.removeprefix(prefix): tensor.shape
        for name, tensor in tensors.items()
        if name.startswith(prefix) and _POSITION_BIAS not in name
    }
