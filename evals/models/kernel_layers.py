"""Linear layers that compute with quantized weights, on kernels of torch.

Each class multiplies the codes of the checkpoint. ``kernel`` is the operator that it calls.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gates.evals.models.quantized import (
    FLOAT8,
    INT,
    QuantizedWeight,
    input_scales,
)

FEW_TOKENS = 16
"""Up to this number of tokens, the CPU kernel for int8 weights in 16 bits is faster than a product
with converted weights."""
INT4_GROUPS = (32, 64, 128, 256)
"""Group sizes of torch's kernels for int4 weights."""
HALVES = (torch.bfloat16, torch.float16)


class KernelLinear(nn.Module):
    """A linear layer with quantized weights.

    Attributes:
        kernel: name of the operator that computes the product.
        weight_bytes: size of the weight in the form that the kernel reads.
    """

    kernel: str

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, dtype: torch.dtype):
        super().__init__()
        self.out_features, self.in_features = weight.codes.shape
        self.quantized, self.dtype = weight, dtype
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @staticmethod
    def supports(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> bool:
        """Return whether the kernel computes this form on a device with inputs of ``dtype``."""
        raise NotImplementedError

    def product(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the product of inputs ``(tokens, in)`` with the weight, and factors that still
        have to be applied to it."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, object]) -> "KernelLinear":
        """Return the layer itself: packed weights cannot be copied, and nothing changes it."""
        return self

    @property
    def weight(self) -> Tensor:
        """The codes, for models that read the dtype of a layer's weight."""
        return self.quantized.codes

    @property
    def weight_bytes(self) -> int:
        parts = (self.quantized.codes, self.quantized.scales)
        bits = self.quantized.bits / 8 / parts[0].element_size()
        return int(parts[0].nbytes * bits) + parts[1].nbytes

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, scales = self.product(inputs.reshape(-1, self.in_features))
        if scales is None:
            outputs = outputs if self.bias is None else outputs + self.bias
        elif self.bias is None:
            outputs = outputs * scales
        else:
            outputs = torch.addcmul(self.bias, outputs, scales)
        return outputs.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)


class Int8InputsCpu(KernelLinear):
    """int8 weights and inputs on a CPU, by oneDNN.

    Inputs are shifted to unsigned integers, for which x86 CPUs have instructions.
    """

    kernel = "onednn::qlinear_pointwise"

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, dtype: torch.dtype):
        super().__init__(weight, bias, dtype)
        self.packed = torch.ops.onednn.qlinear_prepack(weight.codes, None)
        self.scales = weight.scales.float().flatten().contiguous()
        self.zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.key = id(self)
        _PACKED[self.key] = self

    @staticmethod
    def supports(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> bool:
        return device.type == "cpu" and _is_int8(weight, with_inputs=True)

    def product(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        inputs = inputs.float()
        scales = input_scales(inputs, self.quantized.input_levels)
        codes = inputs.div(scales).round_().add_(128).clamp_(0, 255).to(torch.uint8)
        if torch.compiler.is_compiling():
            return _packed_product(codes, self.key, self.out_features), scales
        return self.packed_product(codes), scales

    def packed_product(self, codes: Tensor) -> Tensor:
        """Return the product of codes ``(tokens, in)``, shifted by 128, in float32."""
        return torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 128, self.packed, self.scales, self.zeros, None, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip


_PACKED: weakref.WeakValueDictionary[int, Int8InputsCpu] = weakref.WeakValueDictionary()
"""Layers by their keys: the compiler takes oneDNN's packed weights only as constants of its own."""


@torch.library.custom_op("compression_gates::packed_product", mutates_args=())
def _packed_product(codes: Tensor, key: int, rows: int) -> Tensor:
    return _PACKED[key].packed_product(codes)


@_packed_product.register_fake
def _(codes: Tensor, key: int, rows: int) -> Tensor:
    return codes.new_empty(codes.shape[0], rows, dtype=torch.float32)


class Int8InputsCuda(KernelLinear):
    """int8 weights and inputs on a GPU, by cuBLASLt."""

    kernel = "aten::_int_mm"
    least_tokens = 17

    @staticmethod
    def supports(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> bool:
        is_aligned = not any(size % 8 for size in weight.codes.shape)
        return device.type == "cuda" and is_aligned and _is_int8(weight, with_inputs=True)

    def product(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        scales = input_scales(inputs.float(), self.quantized.input_levels)
        codes = inputs.float().div(scales).round().clamp(-128, 127).to(torch.int8)
        tokens = codes.shape[0]
        missing = max(self.least_tokens - tokens, 0)
        padded = functional.pad(codes, (0, 0, 0, missing)) if missing else codes
        sums = torch._int_mm(padded, self.quantized.codes.t())[:tokens]
        return sums * scales, self.quantized.scales.float().flatten()


class Int8Weights(KernelLinear):
    """int8 weights and plain inputs.

    torch has a kernel that reads int8 weights for 16-bit inputs, which is fast for few tokens. In
    all other cases the codes are converted by each call and multiplied, and the scales applied to
    the outputs, as torchao does.
    """

    kernel = "aten::mm with int8 weights converted by each call"

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, dtype: torch.dtype):
        super().__init__(weight, bias, dtype)
        self.scales = weight.scales.to(dtype).flatten()

    @staticmethod
    def supports(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> bool:
        return _is_int8(weight, with_inputs=False)

    def product(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.mm(inputs, self.quantized.codes.t().to(inputs.dtype)), self.scales


class Int8WeightsHalfCpu(Int8Weights):
    """int8 weights and 16-bit inputs on a CPU."""

    kernel = f"aten::_weight_int8pack_mm up to {FEW_TOKENS} tokens, else {Int8Weights.kernel}"

    @staticmethod
    def supports(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> bool:
        is_half = device.type == "cpu" and dtype == torch.bfloat16
        return is_half and _is_int8(weight, with_inputs=False)

    def product(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        if inputs.shape[0] > FEW_TOKENS:
            return super().product(inputs)
        operator = torch._weight_int8pack_mm
        return operator(inputs.contiguous(), self.quantized.codes, self.scales), None


class Int4Weights(KernelLinear):
    """int4 weights in groups, and plain inputs in bfloat16: torch's tinygemm kernels.

    They compute ``(code + 8 - 8) * scale + zero`` with codes from 0 to 15.
    """

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, dtype: torch.dtype):
        super().__init__(weight, bias, dtype)
        self.group = _int4_group(weight)
        repeats = weight.group // self.group
        scales = weight.scales.to(dtype).repeat_interleave(repeats, 1)
        shift = torch.zeros_like(scales)
        codes = weight.codes.int() + 8
        if weight.zeros is not None:
            shift = -weight.zeros.to(dtype).repeat_interleave(repeats, 1) * scales
        self.grid = torch.stack((scales.t(), shift.t()), -1).contiguous()
        self.packed = self.pack(codes)

    def pack(self, codes: Tensor) -> Tensor:
        """Return codes ``(out, in)`` from 0 to 15 in the layout of the kernel."""
        raise NotImplementedError


class Int4WeightsCpu(Int4Weights):
    """int4 weights on a CPU."""

    kernel = "aten::_weight_int4pack_mm_for_cpu"

    @staticmethod
    def supports(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> bool:
        is_aligned = weight.codes.shape[0] % 16 == 0
        # With float32 inputs, the same operator is a hundred times as slow as a plain product.
        return device.type == "cpu" and dtype == torch.bfloat16 and is_aligned and _is_int4(weight)

    def pack(self, codes: Tensor) -> Tensor:
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)

    def product(self, inputs: Tensor) -> tuple[Tensor, None]:
        operator = torch.ops.aten._weight_int4pack_mm_for_cpu
        return operator(inputs.contiguous(), self.packed, self.group, self.grid), None


class Int4WeightsCuda(Int4Weights):
    """int4 weights on a GPU of compute capability 8.0 or higher."""

    kernel = "aten::_weight_int4pack_mm"
    inner_tiles = 8

    @staticmethod
    def supports(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> bool:
        rows, columns = weight.codes.shape
        is_aligned = rows % 8 == 0 and columns % (16 * Int4WeightsCuda.inner_tiles) == 0
        is_possible = _capability(device) >= (8, 0) and dtype == torch.bfloat16
        return is_possible and is_aligned and _is_int4(weight)

    def pack(self, codes: Tensor) -> Tensor:
        pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
        return torch.ops.aten._convert_weight_to_int4pack(pairs, self.inner_tiles)

    def product(self, inputs: Tensor) -> tuple[Tensor, None]:
        operator = torch.ops.aten._weight_int4pack_mm
        return operator(inputs.contiguous(), self.packed, self.group, self.grid), None


class Float8Inputs(KernelLinear):
    """float8 weights and inputs with a scale per row, on a GPU of compute capability 9.0."""

    kernel = "aten::_scaled_mm"

    @staticmethod
    def supports(weight: QuantizedWeight, device: torch.device, dtype: torch.dtype) -> bool:
        is_aligned = not any(size % 16 for size in weight.codes.shape)
        is_form = weight.kind == FLOAT8 and weight.scales.shape[1] == 1 and weight.input_levels
        return bool(is_form) and is_aligned and _capability(device) >= (9, 0) and dtype in HALVES

    def product(self, inputs: Tensor) -> tuple[Tensor, None]:
        scales = input_scales(inputs.float(), self.quantized.input_levels)
        outputs = torch._scaled_mm(
            inputs.float().div(scales).to(torch.float8_e4m3fn),
            self.quantized.codes.t(),
            scale_a=scales,
            scale_b=self.quantized.scales.float().t().contiguous(),
            out_dtype=torch.bfloat16,  # the only one with a scale per row
        )
        return outputs, None


class SparseWeights(KernelLinear):
    """Plain 16-bit weights with 2:4 zeros, on a GPU of compute capability 8.0 or higher.

    Args:
        weight: the plain weight ``(out, in)``.
    """

    kernel = "torch.sparse semi-structured"

    def __init__(self, weight: Tensor, bias: Tensor | None):
        scales = torch.ones(len(weight), 1, dtype=weight.dtype, device=weight.device)
        super().__init__(QuantizedWeight(weight, scales, bits=16), bias, weight.dtype)
        self.sparse = torch.sparse.to_sparse_semi_structured(weight)

    @staticmethod
    def is_available(weight: Tensor) -> bool:
        """Return whether the kernel computes with a weight that has 2:4 zeros."""
        is_aligned = weight.shape[0] % 32 == 0 and weight.shape[1] % 64 == 0
        return is_aligned and weight.dtype in HALVES and _capability(weight.device) >= (8, 0)

    @property
    def weight_bytes(self) -> int:
        # Half of the values, and two bits for the place of each.
        return self.quantized.codes.nbytes * 9 // 16

    def product(self, inputs: Tensor) -> tuple[Tensor, None]:
        return functional.linear(inputs, self.sparse), None


KERNELS: Sequence[type[KernelLinear]] = (
    Int8InputsCpu, Int8InputsCuda, Int8WeightsHalfCpu, Int8Weights, Int4WeightsCpu,
    Int4WeightsCuda, Float8Inputs,
)  # fmt: skip
"""The kernels; the first that supports a form is used."""


def kernel_for(
    weight: QuantizedWeight, device: torch.device, dtype: torch.dtype
) -> type[KernelLinear] | None:
    """Return the kernel for a form on a device with inputs of ``dtype``; None if there is none."""
    return next((k for k in KERNELS if k.supports(weight, device, dtype)), None)


def _is_int8(weight: QuantizedWeight, with_inputs: bool) -> bool:
    is_int8 = weight.kind == INT and weight.bits == 8 and weight.zeros is None
    return is_int8 and weight.scales.shape[1] == 1 and bool(weight.input_levels) == with_inputs


def _is_int4(weight: QuantizedWeight) -> bool:
    is_int4 = weight.kind == INT and weight.bits == 4 and not weight.input_levels
    return is_int4 and _int4_group(weight) > 0


def _int4_group(weight: QuantizedWeight) -> int:
    """Return the largest group size of the kernels that divides the groups; 0 if none does."""
    sizes = [size for size in INT4_GROUPS if weight.group % size == 0]
    return max(sizes, default=0)


def _capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU; ``(0, 0)`` for other devices."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
