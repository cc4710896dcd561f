"""Quantized weights of loaded layers: the codes and scales of the checkpoint.

transformers unpacks the weights of some formats on loading. Their codes are then recovered from the
unpacked weight and the stored scales, and used only if they give exactly that weight again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.formats import CustomFormat

INT, FLOAT8 = "int", "float8"
CHANGED = "weights that are not on the grid of their scales"
LARGEST_INPUT = 127.5
"""Levels from zero to the largest input that is quantized to int8, in most libraries."""


@dataclass(frozen=True)
class QuantizedWeight:
    """The weight of a linear layer as codes on a grid, and how the inputs are quantized.

    Attributes:
        codes: ``(out, in)``, int8 or float8.
        scales: ``(out, groups)``, with groups of consecutive inputs.
        zeros: zero points shaped like ``scales``, or None.
        bits: of a code.
        input_levels: inputs ``x`` are quantized token by token with the scale ``max |x| /
            input_levels``; 0 if they are not quantized.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None = None
    bits: int = 8
    input_levels: float = 0.0

    @property
    def kind(self) -> str:
        """``int`` or ``float8``."""
        return FLOAT8 if self.codes.is_floating_point() else INT

    @property
    def group(self) -> int:
        """The number of consecutive weights of a row that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    @property
    def form(self) -> str:
        """The form in words, such as ``int8 weights and int8 inputs``."""
        name = f"int{self.bits}" if self.kind == INT else FLOAT8
        inputs = f" and {name} inputs" if self.input_levels else ""
        groups = f" in groups of {self.group}" if self.scales.shape[1] > 1 else ""
        zeros = " with zero points" if self.zeros is not None else ""
        return f"{name} weights{groups}{zeros}{inputs}"

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """Return the weight ``(out, in)`` that the codes represent, computed in ``dtype``."""
        codes = self.codes.to(dtype).unflatten(1, (self.scales.shape[1], -1))
        if self.zeros is not None:
            codes = codes - self.zeros.to(dtype)[..., None]
        return (codes * self.scales.to(dtype)[..., None]).flatten(1)

    def rounded_inputs(self, inputs: Tensor) -> Tensor:
        """Return inputs ``(tokens, in)`` as this form quantizes them."""
        if not self.input_levels:
            return inputs
        scales = input_scales(inputs, self.input_levels)
        codes = inputs / scales
        if self.kind == INT:
            codes = codes.round().clamp(-128, 127)
        else:
            codes = codes.to(torch.float8_e4m3fn).to(inputs.dtype)
        return codes * scales


def input_scales(inputs: Tensor, levels: float) -> Tensor:
    """Return the scale ``(tokens, 1)`` of each token's inputs; 1 for a token of zeros."""
    scales = inputs.abs().amax(dim=-1, keepdim=True) / levels
    return torch.where(scales == 0, 1.0, scales)


def quantized_weights(
    model: nn.Module, checkpoint: Checkpoint, formats: Sequence[CustomFormat]
) -> dict[str, QuantizedWeight | str]:
    """Return the quantized weights of a loaded model by the names of their layers.

    A layer whose codes cannot be given to a kernel has the reason in place of its weight. Layers
    that only run on the code of the library that owns the format are left out.
    """
    source = checkpoint.base or checkpoint
    method = source.form.partition(" ")[0]
    for custom in formats:
        if custom.method == method and custom.quantized is not None:
            stored = custom.quantized(source.path, next(model.parameters()).device)
            return {name: _in_model(model, name, weight) for name, weight in stored.items()}
    found: dict[str, QuantizedWeight | str] = {}
    for name, module in model.named_modules():
        for read in (_compressed_tensors, _torchao, _bitsandbytes):
            weight = read(module)
            if weight is not None:
                found[name] = weight
                break
    return found


def _in_model(model: nn.Module, name: str, weight: QuantizedWeight | str) -> QuantizedWeight | str:
    """Return a stored weight if the loaded layer has exactly its values."""
    if isinstance(weight, str):
        return weight
    loaded = model.get_submodule(name).weight.detach()
    values = weight.dequantized(loaded.dtype)
    # The parameter of a Conv1D is (in, out).
    is_equal = torch.equal(values, loaded) or torch.equal(values, loaded.mT)
    return weight if is_equal else CHANGED


def _compressed_tensors(module: nn.Module) -> QuantizedWeight | str | None:
    scheme = getattr(module, "quantization_scheme", None)
    weights = getattr(scheme, "weights", None)
    if weights is None or not hasattr(module, "weight_scale"):
        return None
    strategy, inputs = str(getattr(weights.strategy, "value", weights.strategy)), 0.0
    if strategy not in ("tensor", "channel", "group") or hasattr(module, "weight_g_idx"):
        return f"weights with the strategy {strategy} of compressed-tensors"
    kind = str(getattr(weights.type, "value", weights.type))
    if (activations := scheme.input_activations) is not None:
        is_dynamic = activations.dynamic is True and activations.symmetric
        strategy = str(getattr(activations.strategy, "value", activations.strategy))
        if not is_dynamic or strategy != "token" or activations.num_bits != 8:
            return "inputs that are not quantized dynamically with one symmetric scale per token"
        inputs = LARGEST_INPUT if kind == INT else torch.finfo(torch.float8_e4m3fn).max
    return recovered(
        module.weight.detach(),
        module.weight_scale.detach(),
        getattr(module, "weight_zero_point", None),
        weights.num_bits,
        kind,
        inputs,
    )


def recovered(
    weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, kind: str, inputs: float
) -> QuantizedWeight | str:
    """Return the codes whose values are exactly ``weight`` ``(out, in)``."""
    if weight.dtype in (torch.int8, torch.float8_e4m3fn):
        codes = weight
    else:
        scales = scales.reshape(-1, 1) if scales.ndim < 2 else scales
        scales = scales.expand(len(weight), -1)
        ratios = weight.unflatten(1, (scales.shape[1], -1)).double() / scales[..., None].double()
        if kind == INT:
            if zeros is not None:
                ratios = ratios + zeros.reshape(-1, scales.shape[1])[..., None].double()
            codes = ratios.flatten(1).round().clamp(-128, 127).to(torch.int8)
        else:
            codes = ratios.flatten(1).to(torch.float8_e4m3fn)
    if zeros is not None:
        zeros = zeros.detach().reshape(-1, scales.shape[1]).expand_as(scales)
        zeros = zeros if bool(zeros.any()) else None
    quantized = QuantizedWeight(codes, scales, zeros, bits, inputs)
    if codes is not weight and not torch.equal(quantized.dequantized(weight.dtype), weight):
        return CHANGED
    return quantized


def _torchao(module: nn.Module) -> QuantizedWeight | str | None:
    weight = getattr(module, "weight", None)
    if not isinstance(module, nn.Linear) or type(weight).__name__ != "Int8Tensor":
        return None
    has_other_parts = weight.act_pre_scale is not None or weight.act_quant_scale is not None
    kwargs, inputs = weight.act_quant_kwargs, 0.0
    if kwargs is not None:
        is_per_token = type(kwargs.granularity).__name__ == "PerRow"
        has_other_parts |= not is_per_token or kwargs.mapping_type.name != "SYMMETRIC"
        inputs = LARGEST_INPUT
    if has_other_parts or weight.reduce_range:
        return "inputs that are not quantized dynamically with one symmetric scale per token"
    scales = weight.scale.reshape(-1, weight.scale.shape[-1]).expand(len(weight.qdata), -1)
    zeros = weight.zero_point
    if zeros is not None:
        zeros = zeros.expand_as(scales) if bool(zeros.any()) else None
    return QuantizedWeight(weight.qdata, scales, zeros, 8, inputs)


def _bitsandbytes(module: nn.Module) -> QuantizedWeight | None:
    if type(module).__name__ != "Linear8bitLt" or module.state.threshold > 0:
        return None  # with a threshold, columns with outliers run in the original precision
    state, weight = module.state, module.weight
    codes = state.CB if state.CB is not None else weight.CB
    scales = state.SCB if state.SCB is not None else weight.SCB
    return QuantizedWeight(codes, scales.reshape(-1, 1) / 127, None, 8, 127.0)
