"""Tensors of a GGUF file that transformers does not load."""

import copy
from typing import TYPE_CHECKING

import numpy as np

from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.gguf_header import REMEDY, Header
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import on_one_line

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_OWN_LOADERS = ("gpt-oss",)
"""Architectures whose tensors transformers loads under names that are not in its mapping."""
_ROPE = ("rope_", "rope.")
"""Tensors that are compared as rope scaling, or that contain plain frequencies in old files."""


def compare(sides: "Sides", header: Header) -> CheckpointComparison:
    """Find tensors that are not loaded into any parameter, unless they are zero."""
    loaded = _loaded_names(sides, header)
    if loaded is None:
        why = "transformers has a separate loader for this architecture"
        return CheckpointComparison(not_compared={"tensors that are not loaded": why})
    lost = [
        on_one_line(name)
        for name in header.types
        # Parameters of all experts of a layer have no suffix.
        if not {name, name.removesuffix(".weight")} & loaded
        and not name.startswith(_ROPE)
        and not _is_zero_bias(header, name)
    ]
    if not lost:
        return CheckpointComparison(compared=("GGUF tensors",))
    text = f"transformers does not load {listed(lost)} of {header.name}, {REMEDY}"
    return CheckpointComparison((Finding("GGUF loading", text),), ("GGUF tensors",))


def _loaded_names(sides: "Sides", header: Header) -> set[str] | None:
    """Return the names of the tensors that are loaded; None if the loader does not list them."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    # Making a model sets attributes of its configuration.
    config = copy.deepcopy(sides.candidate_config.get_text_config())
    if header.architecture in (*GGUF_CONFIG_ARCHS, *_OWN_LOADERS):
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
    names = set(get_gguf_hf_weights_map(model, processor(config=config.to_dict())))
    return names | {"output.weight"}  # GPT-2's loader handles it separately


def _is_zero_bias(header: Header, name: str) -> bool:
    """Return whether a tensor is a bias of zeros, which has no effect."""
    if not name.endswith(".bias"):
        return False
    from gguf import GGUFReader, dequantize

    tensor = next(t for t in GGUFReader(header.file).tensors if t.name == name)
    return not np.any(dequantize(tensor.data, tensor.tensor_type))
