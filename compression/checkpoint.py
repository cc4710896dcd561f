"""Writes a compressed model as a Hugging Face checkpoint, safetensors only.

Pruned models are written dense: they load anywhere, and zeros save nothing. Quantized layers are
packed in the compressed-tensors format ``pack-quantized``, which transformers loads and vLLM
serves.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from compression.apply import Compressed
from compression.rounding import Rounded


def save(compressed: Compressed, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Writes model and tokenizer to ``directory``, whole or not at all.

    Raises:
        FileExistsError: ``directory`` exists.
    """
    directory = Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory} exists; name a directory that does not")
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _no_bars():
            compressed.model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if compressed.rounded:
            _pack(partial, compressed.rounded)
            _describe(partial, compressed)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keeps the writer's own progress bars off a terminal that is somebody else's."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _pack(directory: Path, rounded: Mapping[str, Rounded]) -> None:
    """Replaces each quantized ``weight`` in the checkpoint's files by its packed form."""
    homes: dict[str, str] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors: dict[str, Tensor] = {}
        with safe_open(file, "pt") as source:
            metadata = source.metadata()
            for key in source.keys():  # noqa: SIM118 - not a mapping
                layer = key.removesuffix(".weight")
                if key.endswith(".weight") and layer in rounded:
                    tensors |= _packed(key, rounded[layer])
                else:
                    tensors[key] = source.get_tensor(key)
        save_file(tensors, file, metadata)
        homes |= dict.fromkeys(tensors, file.name)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        table = json.loads(index.read_text())
        table["weight_map"] = homes
        index.write_text(json.dumps(table, indent=2))


def _packed(key: str, rounded: Rounded) -> dict[str, Tensor]:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    integers = rounded.integers.cpu()
    return {
        f"{key}_packed": pack_to_int32(integers, rounded.bits).contiguous(),
        f"{key}_scale": rounded.scales.cpu().contiguous(),
        f"{key}_shape": torch.tensor(integers.shape),
    }


def _describe(directory: Path, compressed: Compressed) -> None:
    """Adds the ``quantization_config`` by which a loader knows the packed layers."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    bits = {rounded.bits for rounded in compressed.rounded.values()}.pop()
    weights = {
        "num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel",
        "group_size": None, "dynamic": False,
    }  # fmt: skip
    linear = {
        name
        for name, module in compressed.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": sorted(linear - set(compressed.rounded)),
    }
    path.write_text(json.dumps(config, indent=2) + "\n")
