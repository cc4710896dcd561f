"""Engines: how models are run for gates on efficiency.

``eager`` runs the model as transformers does, ``compiled`` through :func:`torch.compile`. Under
both, quantized layers run on kernels for their own form: :mod:`evals.models.kernel_layers`.
"""

import copy
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.files import weight_files
from compression_gates.evals.checkpoints.formats import PLAIN, CustomFormat
from compression_gates.evals.errors import kind_and_line
from compression_gates.evals.models.device import is_out_of_memory
from compression_gates.evals.models.kernel_layers import KernelLinear, SparseWeights, kernel_for
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.models.loading_checks import is_plain
from compression_gates.evals.models.quantized import QuantizedWeight, quantized_weights
from compression_gates.evals.running import COMPILED, DENSE

CHECKED = 8
"""Number of tokens whose outputs are compared with the dequantized layer."""
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest relative error (Frobenius norm) of a kernel, by dtype of the inputs. The quantization of
inputs is part of the reference, so only rounding is left."""
CODES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)
_SAFETENSORS_CODES = ("I8", "U8", "I16", "U16", "I32", "U32", "F8_E4M3", "F8_E5M2",
                      "F8_E8M0", "F4")  # fmt: skip
"""Dtypes of quantized weights in safetensors files; :data:`CODES` are those of PyTorch."""
_PREPARED: weakref.WeakKeyDictionary[nn.Module, dict[str, "Running"]] = weakref.WeakKeyDictionary()
"""What was prepared of a loaded model, by engine, as long as the model is loaded."""


@dataclass(frozen=True)
class Running:
    """A model as an engine runs it.

    Attributes:
        loaded: the model with its kernels.
        eager: the same before compilation.
        kernel: the kernels of the linear layers.
        reason: why the stored form cannot be run here; empty if it can.
    """

    loaded: Loaded
    eager: Loaded
    kernel: str = DENSE
    reason: str = ""


def prepare(
    loaded: Loaded, engine: str, ids: Tensor, formats: Sequence[CustomFormat] = ()
) -> Running:
    """Return a loaded model as an engine runs it. The loaded model is not changed.

    Args:
        loaded: the model.
        engine: one of :data:`evals.running.ENGINES`.
        ids: tokens ``(rows, tokens)`` of the batch on which each kernel is checked.
        formats: formats that are registered with transformers.
    """
    prepared = _PREPARED.setdefault(loaded.model, {})
    if engine not in prepared:
        prepared[engine] = _prepared(loaded, engine, ids, formats)
    return prepared[engine]


@torch.inference_mode()
def _prepared(loaded: Loaded, engine: str, ids: Tensor, formats: Sequence[CustomFormat]) -> Running:
    model = _copied(loaded.model)
    eager = replace(loaded, model=model)
    try:
        kernel, reason = _with_kernels(loaded, model, formats)
        if not reason:
            reason = _check_kernels(eager, ids)
    except Exception as error:  # an operator refuses the shape or the device, or a model the layer
        if is_out_of_memory(error):
            raise
        kernel, reason = "", f"its kernel does not run here: {kind_and_line(error)}"
    if engine == COMPILED and not reason:
        compiled = _copied(model)
        compiled.forward = torch.compile(compiled.forward)
        return Running(replace(loaded, model=compiled), eager, kernel)
    return Running(eager, eager, kernel, reason)


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model that shares its tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _with_kernels(
    loaded: Loaded, model: nn.Module, formats: Sequence[CustomFormat]
) -> tuple[str, str]:
    """Replace the quantized layers of ``model``, a copy of the loaded one, by kernels.

    Returns:
        The names of the kernels, and why the form cannot be run here.
    """
    source = loaded.checkpoint.base or loaded.checkpoint
    if source.form == PLAIN:
        return _with_sparse_kernels(model), ""
    quantized = quantized_weights(loaded.model, loaded.checkpoint, formats)
    if not quantized:
        return _library_kernels(model, source)
    problems = sorted({weight for weight in quantized.values() if isinstance(weight, str)})
    if problems:
        return "", f"torch has no kernel for {problems[0]}"
    return _replace_layers(model, quantized, loaded.model.dtype)


def _replace_layers(
    model: nn.Module, quantized: Mapping[str, QuantizedWeight], dtype: torch.dtype
) -> tuple[str, str]:
    kernels = {}
    for name, weight in quantized.items():
        kernel = kernel_for(weight, weight.codes.device, dtype)
        if kernel is None:
            device, number = weight.codes.device.type, str(dtype).removeprefix("torch.")
            return "", f"torch has no kernel for {weight.form} in {number} on this {device}"
        layer = model.get_submodule(name)
        model.set_submodule(name, kernel(weight, layer.bias, dtype).eval())
        kernels[f"{weight.form}: {kernel.kernel}"] = None
    return "; ".join(kernels), ""


def _library_kernels(model: nn.Module, source: Checkpoint) -> tuple[str, str]:
    """Return the kernels of a form that only the library runs that owns it."""
    no_kernel = f"so no kernel for {source.form} runs here"
    if any(module._forward_pre_hooks for module in model.modules()):
        return "", f"its activations are rounded in Python, {no_kernel}"
    if not has_quantized_weights(model):
        if _is_stored_quantized(source):
            return "", f"its weights are unpacked on loading, {no_kernel}"
        return DENSE, ""
    return f"the kernels of {source.form.partition(' ')[0]}", ""


def _with_sparse_kernels(model: nn.Module) -> str:
    """Replace the linear layers with 2:4 zeros by sparse kernels, where there is one."""
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and has_pattern(module.weight, 2, 4)
    }
    sparse = {n: m for n, m in layers.items() if SparseWeights.is_available(m.weight)}
    for name, layer in sparse.items():
        kernel = SparseWeights(layer.weight.detach(), layer.bias)
        model.set_submodule(name, kernel.eval())
    if sparse:
        return f"2:4 weights: {SparseWeights.kernel}"
    return f"{DENSE}; torch has no kernel for 2:4 zeros here" if layers else DENSE


def has_pattern(weight: Tensor, n: int, m: int) -> bool:
    """Return whether at most ``n`` of every ``m`` consecutive weights of each row are not zero."""
    if weight.shape[1] % m:
        return False
    return bool(((weight != 0).unflatten(1, (-1, m)).sum(-1) <= n).all())


def has_quantized_weights(model: nn.Module) -> bool:
    """Return whether a loaded model has weights in a quantized or a library's own packed form."""
    return any(
        tensor.ndim >= 2 and (tensor.dtype in CODES or not is_plain(tensor))
        for tensor in model.state_dict().values()
    )


def _is_stored_quantized(checkpoint: Checkpoint) -> bool:
    """Return whether the files of a checkpoint contain quantized weights or bitmasks."""
    from safetensors import safe_open

    if checkpoint.file:  # GGUF
        return True
    for file in weight_files(checkpoint.path):
        with safe_open(file, "pt") as stream:
            dtypes = {stream.get_slice(name).get_dtype() for name in list(stream.keys())}
        if not dtypes.isdisjoint(_SAFETENSORS_CODES):
            return True
    return False


def _check_kernels(running: Loaded, ids: Tensor) -> str:
    """Compare each layer with a kernel, on a batch, with its dequantized weight.

    Returns:
        The first layer whose error exceeds its tolerance; empty if there is none.
    """
    problems: list[str] = []
    layers = {n: m for n, m in running.model.named_modules() if isinstance(m, KernelLinear)}
    hooks = [
        layer.register_forward_hook(partial(_compare, name=name, problems=problems))
        for name, layer in layers.items()
    ]
    try:
        if layers:
            running.model(**running.inputs(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return problems[0] if problems else ""


def _compare(
    layer: KernelLinear, inputs: tuple[Tensor], output: Tensor, name: str, problems: list[str]
) -> None:
    """Add a line to ``problems`` if the output differs from that of the dequantized weight."""
    rows = inputs[0].reshape(-1, layer.in_features)[:CHECKED]
    weight = layer.quantized.dequantized(torch.float64)
    bias = None if layer.bias is None else layer.bias.double()
    # The scales of the inputs are computed in their dtype, as the kernels do.
    rounded = layer.quantized.rounded_inputs(rows.float()).double()
    expected = functional.linear(rounded, weight, bias)
    error = (output.reshape(-1, layer.out_features)[:CHECKED].double() - expected).norm()
    if not error <= TOLERANCES[inputs[0].dtype] * expected.norm():
        relative = float(error / expected.norm())
        problems.append(
            f"{layer.kernel} is wrong by {relative:.1%} in layer {name}, so it is not used"
        )


def stored_tensors(model: nn.Module) -> list[Tensor]:
    """Return the tensors that a model holds between forward passes, those of its kernels included,
    except for packed ones without a storage that Python can see."""
    held: list[object] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        if isinstance(module, KernelLinear):
            held += [*vars(module).values(), *vars(module.quantized).values()]
    return [x for x in held if isinstance(x, Tensor) and x.layout == torch.strided]


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's tensors in the form in which its kernels read them."""
    kernels = [module for module in model.modules() if isinstance(module, KernelLinear)]
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(map(_bytes, tensors.values())) + sum(kernel.weight_bytes for kernel in kernels)


def _bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor, or of the parts of a library's own packed tensor."""
    if is_plain(tensor) or not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(_bytes(getattr(tensor, name)) for name in names)
