"""Tensors of a GGUF file that transformers leaves aside when it loads the file."""

from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.gguf_header import Header
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import on_one_line
from compression_gates.evals.models.configurations import load_config

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_OWN_LOADERS = ("gpt-oss",)
"""Architectures of which transformers takes tensors by other names than those of its mapping."""
_ROPE = ("rope_", "rope.")
"""Tensors that are compared as the rope scaling, or that hold plain frequencies in old files."""


def compare(sides: "Sides", header: Header) -> CheckpointComparison:
    """Names the tensors that no parameter of the loaded model takes, unless they are zero."""
    names = _mapped(sides, header)
    if names is None:
        why = "its architecture has a loader of its own"
        return CheckpointComparison(not_compared={"tensors that are left aside": why})
    left = [
        name
        for name in header.types
        # Parameters of all experts of a layer have no suffix.
        if not {name, name.removesuffix(".weight")} & names and not name.startswith(_ROPE)
    ]
    lost = [name for name in left if not _is_zero(header, name)]
    if not lost:
        return CheckpointComparison(compared=("GGUF tensors",))
    text = (
        f"transformers leaves aside {listed([*map(on_one_line, lost)])} of {header.name}, "
        "so another model would be judged than the file holds; convert it to safetensors, or judge "
        "it with llama.cpp"
    )
    return CheckpointComparison((Finding("GGUF loading", text),), ("GGUF tensors",))


def _mapped(sides: "Sides", header: Header) -> set[str] | None:
    """Names of the tensors that have a parameter; None where the loader has no such names."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    config = load_config(sides.candidate, sides.trust_remote_code).get_text_config()
    if header.architecture in (*GGUF_CONFIG_ARCHS, *_OWN_LOADERS):
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    make = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
    found = set(get_gguf_hf_weights_map(model, make(config=config.to_dict())))
    return found | {"output.weight"}  # which GPT-2's loader takes by another way


def _is_zero(header: Header, name: str) -> bool:
    """Whether a tensor adds nothing; only biases are looked at."""
    if not name.endswith(".bias"):
        return False
    from gguf import GGUFReader, dequantize

    tensor = next(t for t in GGUFReader(header.file).tensors if t.name == name)
    return not np.any(dequantize(tensor.data, tensor.tensor_type))
