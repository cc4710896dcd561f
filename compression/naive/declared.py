"""Read how a loaded checkpoint says that its layers are quantized."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.checkpoint.own_format import METHOD
from compression_gates.compression.errors import CompressionError
from compression_gates.compression.model.layers import Layer

_BY_LAYER = ("dynamic", "extra_config")
"""Settings of GPTQModel and AutoRound that differ between layers."""
_BITS = ("bits", "num_bits", "w_bit", "nbits")
_GROUP = ("group_size", "q_group_size")
"""Names of settings in the ``quantization_config`` of other formats."""


class UnknownFormError(CompressionError):
    """A checkpoint declares a quantization that has no naive form here."""


def declared_quantization(model: PreTrainedModel, layer: Layer) -> str | None:
    """Return the step of a recipe that rounds to the grid that a checkpoint declares for a layer.

    Returns:
        An empty string if the layer is not quantized; None if that is not declared.
    """
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    scheme = getattr(layer.module, "quantization_scheme", None)
    if scheme is not None:
        return _of_scheme(scheme)
    table = config if isinstance(config, Mapping) else config.to_dict()
    if table.get("quant_method") == METHOD:
        return _of_own_format(table, layer)
    if is_readable(layer):
        return None  # a layer that the format leaves out, which may still lie on a grid
    return _of_settings(table)


def is_readable(layer: Layer) -> bool:
    """Return whether the weight of a layer is in memory as plain floating-point numbers."""
    weight = getattr(layer.module, layer.parameter, None)
    if not isinstance(weight, Tensor) or type(weight.data) is not Tensor or weight.is_meta:
        return False
    return weight.ndim > 1 and weight.is_floating_point() and weight.element_size() > 1


def _of_scheme(scheme: object) -> str:
    """Return the step for a scheme of compressed-tensors."""
    weights, inputs = scheme.weights, scheme.input_activations
    if weights is None:
        return ""
    if inputs is not None and inputs.num_bits != 8:
        raise UnknownFormError(f"inputs in {inputs.num_bits} bits have no naive form")
    strategy = getattr(weights.strategy, "value", weights.strategy)
    kind = getattr(weights.type, "value", weights.type)
    settings = {
        "group": weights.group_size if strategy == "group" else None,
        "scale": "tensor" if strategy == "tensor" else None,
        "activations": None if inputs is None else "true",
    }
    if kind == "float":
        if weights.num_bits != 8:
            raise UnknownFormError(f"floats of {weights.num_bits} bits have no naive form")
        return _step("fp8", {**settings, "group": None})
    symmetric = None if weights.symmetric else "false"
    return _step(f"rtn-int{weights.num_bits}", {**settings, "symmetric": symmetric})


def _of_own_format(table: Mapping[str, Mapping], layer: Layer) -> str | None:
    stored = table["weights"].get(layer.stored_name)
    if stored is None or stored["form"] != "packed":
        return None
    rows, groups = stored["scales"]
    *_, out_features, in_features = stored["shape"]
    settings = {
        "group": in_features // groups if groups > 1 else None,
        "scale": "tensor" if rows == 1 < out_features else None,
        "activations": "true" if layer.name in table["activations"] else None,
    }
    if stored["grid"] == "float8":
        return _step("fp8", settings)
    if stored["grid"] == "log":
        return _step(f"log-int{stored['bits']}", settings)
    symmetric = None if stored["symmetric"] else "false"
    return _step(f"rtn-int{stored['bits']}", {**settings, "symmetric": symmetric})


def _of_settings(table: Mapping[str, object]) -> str:
    """Return the step for the ``quantization_config`` of another format; empty if it names no
    number of bits."""
    for name in _BY_LAYER:
        if table.get(name):
            raise UnknownFormError(f"its layers have settings of their own ({name})")
    bits = next((table[name] for name in _BITS if isinstance(table.get(name), int)), None)
    group = next((table[name] for name in _GROUP if isinstance(table.get(name), int)), None)
    if table.get("load_in_4bit") or table.get("_load_in_4bit"):
        bits, group = 4, 64  # bitsandbytes
    elif table.get("load_in_8bit") or table.get("_load_in_8bit"):
        bits, group = 8, None
    if bits is None:
        return ""
    is_affine = table.get("sym") is False or bool(table.get("zero_point"))
    settings = {
        "group": group if group and group > 0 else None,
        "symmetric": "false" if is_affine else None,
    }
    return _step(f"rtn-int{bits}", settings)


def _step(head: str, settings: Mapping[str, object]) -> str:
    given = [f"{name}={value}" for name, value in settings.items() if value is not None]
    return ",".join([head, *given])
