"""Formats of stored weights, and what transformers needs to load each of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gates.evals.errors import EvalError

if TYPE_CHECKING:
    import torch

    from compression_gates.evals.models.quantized import QuantizedWeight

PLAIN, GGUF, LORA = "plain", "gguf", "lora"
_EXTRA = "pip install -c constraints.txt -e '.[{}]'"
# Without --no-deps, it installs versions of its requirements that conflict with other packages.
_GPTQMODEL = "pip install optimum; pip install --no-deps gptqmodel (versions: evals/README.md)"


@dataclass(frozen=True)
class Format:
    """Requirements of a format.

    Attributes:
        packages: import names of the packages with which transformers loads it.
        install: the command that installs them.
        gpu: whether transformers loads it only onto a GPU.
        placed: whether weights are placed on their device while loading, and cannot be moved later.
        readers: other programs that read it.
    """

    packages: tuple[str, ...] = ()
    install: str = ""
    gpu: bool = False
    placed: bool = False
    readers: str = ""


@dataclass(frozen=True)
class CustomFormat:
    """A format that transformers loads after it has been registered in this process.

    Attributes:
        method: the ``quant_method`` of its checkpoints.
        register: registers the format with transformers; called before a model is loaded.
        version: returns a hash of the source code that unpacks the weights.
        quantized: returns the quantized weights of a checkpoint on a device by the names of their
            layers, or the reason why a layer has no kernel; without it, the form has no kernels.
    """

    method: str
    register: Callable[[], None]
    version: Callable[[], str]
    quantized: "Callable[[Path, torch.device], Mapping[str, QuantizedWeight | str]] | None" = None


FORMATS: dict[str, Format] = {
    "aqlm": Format(("aqlm",), gpu=True, placed=True, readers="vLLM"),
    "awq": Format(("gptqmodel",), _GPTQMODEL, placed=True, readers="vLLM or GPTQModel"),
    "bitsandbytes": Format(
        ("bitsandbytes",), _EXTRA.format("bitsandbytes"), placed=True, readers="vLLM"
    ),
    "compressed-tensors": Format(("compressed_tensors",), readers="vLLM"),
    "eetq": Format(("eetq",), gpu=True, placed=True, readers="eetq itself"),
    "exl2": Format(readers="ExLlamaV2"),
    "exl3": Format(readers="ExLlamaV3"),
    "fbgemm_fp8": Format(("fbgemm_gpu",), gpu=True, placed=True, readers="vLLM"),
    "fp8": Format(gpu=True, placed=True, readers="vLLM or SGLang"),
    GGUF: Format(("gguf",), _EXTRA.format("gguf"), readers="llama.cpp"),
    "gptq": Format(("gptqmodel", "optimum"), _GPTQMODEL, placed=True, readers="vLLM or GPTQModel"),
    "higgs": Format(("flute", "hadamard"), gpu=True, placed=True),
    "hqq": Format(("hqq",), gpu=True, placed=True, readers="hqq itself"),
    LORA: Format(("peft",), _EXTRA.format("lora")),
    "marlin": Format(readers="vLLM"),
    "mlx": Format(readers="mlx-lm"),
    "modelopt": Format(readers="vLLM or TensorRT-LLM"),
    "modelopt_fp4": Format(readers="vLLM or TensorRT-LLM"),
    "petit_nvfp4": Format(readers="vLLM"),
    "qqq": Format(readers="vLLM"),
    "quanto": Format(
        ("optimum.quanto",), "pip install optimum-quanto", readers="optimum-quanto itself"
    ),
    "torchao": Format(("torchao",), _EXTRA.format("torchao"), placed=True, readers="vLLM"),
}
"""Formats by method; transformers does not support those that have only ``readers``."""


def format_of(form: str) -> Format:
    """Return the requirements of a format; empty if it is not in :data:`FORMATS`."""
    return FORMATS.get(form.partition(" ")[0], Format())


def check_loadable(reference: object, form: str) -> None:
    """Check that the packages that a format needs are installed.

    Raises:
        EvalError: names the missing packages and the command that installs them.
    """
    required = format_of(form)
    missing = [name for name in required.packages if not _is_installed(name)]
    if missing:
        install = required.install or f"pip install {' '.join(missing)}"
        raise EvalError(
            f"{reference} is stored as {form}, which needs {', '.join(missing)}: {install}"
        )


def check_device(reference: object, form: str, device: str) -> None:
    """Raise an EvalError if a format loads only onto a GPU and the device is the CPU."""
    if format_of(form).gpu and device == "cpu":
        raise EvalError(f"{reference} is stored as {form}, which needs a GPU; choose device cuda")


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False
