"""Forms that weights are stored in: what each needs to be loaded, and what becomes of it then."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from compression_gates.evals.errors import EvalError

PLAIN, GGUF, LORA = "plain", "gguf", "lora"
_EXTRA = "pip install -c constraints.txt -e '.[{}]'"
# Of its own requirements it pins some to versions that other packages do not take.
_GPTQMODEL = "pip install optimum; pip install --no-deps gptqmodel (versions: evals/README.md)"


@dataclass(frozen=True)
class Format:
    """What a form takes.

    Attributes:
        packages: that transformers loads it with, by the names that they are imported by.
        install: the command that gets them.
        gpu: whether transformers loads it onto a GPU alone.
        placed: whether it goes to its device while it is loaded, and stays there.
        readers: what reads it beside transformers.
    """

    packages: tuple[str, ...] = ()
    install: str = ""
    gpu: bool = False
    placed: bool = False
    readers: str = ""


@dataclass(frozen=True)
class CustomFormat:
    """A form that transformers loads once it has been registered in this process.

    Attributes:
        method: the ``quant_method`` of its checkpoints.
        register: registers it with transformers; called before a model is loaded.
        version: gives a hash of the source that the unpacked weights depend on.
    """

    method: str
    register: Callable[[], None]
    version: Callable[[], str]


FORMATS: dict[str, Format] = {
    "aqlm": Format(("aqlm",), gpu=True, placed=True, readers="vLLM"),
    "awq": Format(("gptqmodel",), _GPTQMODEL, placed=True, readers="vLLM or GPTQModel"),
    "bitsandbytes": Format(
        ("bitsandbytes",), _EXTRA.format("bitsandbytes"), placed=True, readers="vLLM"
    ),
    "compressed-tensors": Format(("compressed_tensors",), readers="vLLM"),
    "eetq": Format(("eetq",), gpu=True, placed=True, readers="eetq itself"),
    "fbgemm_fp8": Format(("fbgemm_gpu",), gpu=True, placed=True, readers="vLLM"),
    "fp8": Format(gpu=True, placed=True, readers="vLLM or SGLang"),
    GGUF: Format(("gguf",), _EXTRA.format("gguf"), readers="llama.cpp"),
    "gptq": Format(("gptqmodel", "optimum"), _GPTQMODEL, placed=True, readers="vLLM or GPTQModel"),
    "higgs": Format(("flute", "hadamard"), gpu=True, placed=True),
    "hqq": Format(("hqq",), gpu=True, placed=True, readers="hqq itself"),
    LORA: Format(("peft",), _EXTRA.format("lora")),
    "quanto": Format(
        ("optimum.quanto",), "pip install optimum-quanto", readers="optimum-quanto itself"
    ),
    "torchao": Format(("torchao",), _EXTRA.format("torchao"), placed=True, readers="vLLM"),
}


_ELSEWHERE: Mapping[str, str] = {
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "marlin": "vLLM",
    "mlx": "mlx-lm",
    "modelopt": "vLLM or TensorRT-LLM",
    "modelopt_fp4": "vLLM or TensorRT-LLM",
    "petit_nvfp4": "vLLM",
    "qqq": "vLLM",
}
"""Who reads the formats that transformers does not."""


def read_by(form: str) -> str:
    """What reads a form where transformers does not, or not whole; nothing where nobody is
    known to."""
    return format_of(form).readers or _ELSEWHERE.get(form.partition(" ")[0], "")


def format_of(form: str) -> Format:
    """What a form takes; nothing, as far as is known, where it is not in :data:`FORMATS`."""
    return FORMATS.get(form.partition(" ")[0], Format())


def check_loadable(reference: object, form: str) -> None:
    """Says which package is missing before anything is scored.

    Raises:
        EvalError: names it, and the extra that installs it.
    """
    known = format_of(form)
    missing = [name for name in known.packages if not _installed(name)]
    if missing:
        how = known.install or f"pip install {' '.join(missing)}"
        raise EvalError(f"{reference} is stored as {form}, which needs {', '.join(missing)}: {how}")


def check_device(reference: object, form: str, device: str) -> None:
    """Raises an EvalError for a form that does not load without a GPU where there is none."""
    if format_of(form).gpu and device == "cpu":
        raise EvalError(f"{reference} is stored as {form}, which takes a GPU; choose device cuda")


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
