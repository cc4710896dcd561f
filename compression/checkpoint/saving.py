"""Save a compressed model as a safetensors checkpoint.

- Models without quantized or resized layers are saved as plain checkpoints: pruned models,
  students, and uniformly smaller models with an updated configuration.
- Quantized linear layers are saved as compressed-tensors if it has a scheme for them: symmetric
  integers or float8, with a scale per tensor, channel or group.
- Everything else is saved in the project's own format, :mod:`compression.checkpoint.own_format`,
  and so are models that transformers does not load correctly from compressed-tensors.

A checkpoint is loaded, run and compared before it is moved to its final name.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from compression_gates.compression.checkpoint.own_format import METHOD, VERSION, stored_as
from compression_gates.compression.checkpoint.packing import describe_grid, pack, to_bitmask
from compression_gates.compression.checkpoint.reloading import check_reloads
from compression_gates.compression.checkpoint.saving_tokenizer import save_tokenizer
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError, is_failure, reason_of
from compression_gates.compression.model.layers import Layer, all_layers, stack_of
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.quantization.activations import input_format
from compression_gates.compression.quantization.grids import Float8, Quantized, Uniform

PLAIN, COMPRESSED_TENSORS = "plain", "compressed-tensors"


def form_of(compressed: Compressed) -> str:
    """Return the preferred format of the model; :func:`save` may have to use its own format."""
    if compressed.layout or compressed.bitmask:
        return METHOD
    if not compressed.quantized:
        return PLAIN
    layers = all_layers(compressed.model)
    fits = all(_fits(layers[name], quantized) for name, quantized in compressed.quantized.items())
    formats = {_format(q) for q in compressed.quantized.values()}
    return COMPRESSED_TENSORS if fits and len(formats) == 1 else METHOD


def _fits(layer: Layer, quantized: Quantized) -> bool:
    """Return whether compressed-tensors has a scheme for the layer."""
    grid = quantized.grid
    supported = isinstance(grid, Float8) or (isinstance(grid, Uniform) and grid.symmetric)
    # With quantized inputs, compressed-tensors stores one byte per weight.
    return (
        supported
        and isinstance(layer.module, nn.Linear)
        and (grid.bits == 8 or not quantized.activations)
    )


def save(compressed: Compressed, tokenizer: PreTrainedTokenizerBase, directory: Path) -> str:
    """Save model and tokenizer to ``directory``, completely or not at all; return the format.

    Raises:
        FileExistsError: ``directory`` exists.
        CompressionError: a weight is no longer on its grid, or the checkpoint does not load as the
            same model.
    """
    directory = Path(directory)
    if os.path.lexists(directory):
        raise FileExistsError(f"{directory} exists; give a directory that does not exist")
    layers = all_layers(compressed.model)
    for name, quantized in compressed.quantized.items():
        if not torch.equal(layers[name].weight, quantized.dequantized()):
            raise CompressionError(f"layer {name}: its weight differs from its quantized codes")
    with tempfile.TemporaryDirectory(
        prefix=f"{directory.name}.", suffix=".partial", dir=directory.parent
    ) as scratch:
        partial, form = _first_that_reloads(compressed, tokenizer, Path(scratch))
        partial.rename(directory)
    return form


def _first_that_reloads(
    compressed: Compressed, tokenizer: PreTrainedTokenizerBase, scratch: Path
) -> tuple[Path, str]:
    """Write the checkpoint into ``scratch``, and return its path and its format.

    compressed-tensors fails for architectures that read the weight of a layer before it is
    unpacked, and it quantizes each number of a two-dimensional input separately.
    """
    form = form_of(compressed)
    forms = [form, METHOD] if form == COMPRESSED_TENSORS else [form]
    reasons: list[str] = []
    for form in forms:
        try:
            write(compressed, scratch / form, form)
            save_tokenizer(tokenizer, scratch / form)
            notes = check_reloads(compressed.model, scratch / form)
        except (OSError, SafetensorError):
            raise  # a problem of the disk, which another format does not solve
        except BaseException as error:  # saving and loading can run third-party code
            if not is_failure(error):
                raise
            reasons.append(str(error) if isinstance(error, CompressionError) else reason_of(error))
            shutil.rmtree(scratch / form, ignore_errors=True)
        else:
            compressed.notes += [f"not stored as {COMPRESSED_TENSORS}: {why}" for why in reasons]
            compressed.notes += notes
            return scratch / form, form
    raise CompressionError(f"the checkpoint is wrong and was not kept: {reasons[-1]}")


def write(compressed: Compressed, directory: Path, form: str) -> None:
    """Write a model in one of the forms of checkpoints, without its tokenizer."""
    model = compressed.model
    if form == PLAIN:
        tensors, description = {}, None
    elif form == COMPRESSED_TENSORS:
        tensors = {
            f"{name}.weight": _compressed_tensors(q) for name, q in compressed.quantized.items()
        }
        description = _describe_compressed_tensors(compressed)
    else:
        tensors, stored = _own_tensors(compressed)
        description = _describe_own(compressed, stored)
    with quiet(), stored_as(model, tensors):
        # The own format uses the names of the model in memory, in which experts share a parameter.
        model.save_pretrained(directory, save_original_format=form != METHOD)
    if description is not None:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        config["quantization_config"] = description
        path.write_text(json.dumps(config, indent=2) + "\n")


def _format(quantized: Quantized) -> str:
    """Return the name in compressed-tensors for the format of a layer."""
    if isinstance(quantized.grid, Float8):
        return "float-quantized"
    return "int-quantized" if quantized.activations else "pack-quantized"


def _compressed_tensors(quantized: Quantized) -> dict[str, Tensor]:
    scales = quantized.scales.cpu().contiguous()
    if len(scales) == 1 < len(quantized.codes):
        scales = scales.flatten()
    if _format(quantized) != "pack-quantized":
        codes = quantized.codes.cpu().to(torch.int8)
        if isinstance(quantized.grid, Float8):
            codes = codes.view(torch.float8_e4m3fn)
        return {"weight": codes, "weight_scale": scales}
    return {
        "weight_packed": pack(quantized)["packed"],
        "weight_scale": scales,
        "weight_shape": torch.tensor(quantized.codes.shape),
    }


def _describe_compressed_tensors(compressed: Compressed) -> dict[str, object]:
    """Return the ``quantization_config`` for compressed-tensors."""
    schemes: dict[str, tuple[dict, list[str]]] = {}
    for name, quantized in compressed.quantized.items():
        scheme = _scheme(quantized)
        schemes.setdefault(json.dumps(scheme), (scheme, []))[1].append(name)
    linear = {
        name for name, module in compressed.model.named_modules() if isinstance(module, nn.Linear)
    }
    groups = {
        f"group_{number}": {**scheme, "targets": ["Linear"] if len(schemes) == 1 else names}
        for number, (scheme, names) in enumerate(schemes.values())
    }
    return {
        "quant_method": "compressed-tensors",
        "format": _format(next(iter(compressed.quantized.values()))),
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": sorted(linear - set(compressed.quantized)),
    }


def _scheme(quantized: Quantized) -> dict[str, object]:
    rows, columns = quantized.codes.shape
    groups = quantized.scales.shape[1]
    kind = "float" if isinstance(quantized.grid, Float8) else "int"
    weights: dict[str, object] = {
        "num_bits": quantized.grid.bits, "type": kind, "symmetric": True, "strategy": "channel",
        "group_size": None, "dynamic": False,
    }  # fmt: skip
    if groups > 1:
        weights |= {"strategy": "group", "group_size": columns // groups}
    elif len(quantized.scales) == 1 < rows:
        weights |= {"strategy": "tensor"}
    if not quantized.activations:
        return {"weights": weights}
    inputs = {
        "num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True,
    }  # fmt: skip
    return {"weights": weights, "input_activations": inputs}


def _own_tensors(
    compressed: Compressed,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, object]]]:
    """Return the stored tensors of each parameter, and their descriptions."""
    layers = all_layers(compressed.model)
    parts: dict[str, list[dict[str, Tensor]]] = {}
    stored: dict[str, dict[str, object]] = {}
    for name, quantized in compressed.quantized.items():
        layer = layers[name]
        parts.setdefault(layer.stored_name, []).append(pack(quantized))
        stored[layer.stored_name] = {
            "form": "packed",
            "shape": [*_experts(layer), layer.out_features, layer.in_features],
            "scales": list(quantized.scales.shape),
            "transposed": layer.transposed,
            **describe_grid(quantized.grid),
        }
    for layer in {layers[name].stored_name: layers[name] for name in compressed.bitmask}.values():
        weight = stack_of(layer.module, layer.stored)
        weight = weight.mT if layer.transposed else weight
        tensors = to_bitmask(weight)
        parts[layer.stored_name] = [tensors]
        stored[layer.stored_name] = {
            "form": "bitmask",
            "shape": list(weight.shape),
            "values": len(tensors["values"]),
            "transposed": layer.transposed,
        }
    tensors = {}
    for name, slices in parts.items():
        key = name.rpartition(".")[2]
        stacked = stored[name]["form"] == "packed" and len(stored[name]["shape"]) == 3
        tensors[name] = {
            f"{key}_{part}": torch.stack([s[part] for s in slices]) if stacked else slices[0][part]
            for part in slices[0]
        }
    return tensors, stored


def _experts(layer: Layer) -> list[int]:
    return [] if layer.expert is None else [len(stack_of(layer.module, layer.stored))]


def _describe_own(
    compressed: Compressed, stored: Mapping[str, Mapping[str, object]]
) -> dict[str, object]:
    activations = {
        name: input_format(quantized.grid)
        for name, quantized in compressed.quantized.items()
        if quantized.activations
    }
    return {
        "quant_method": METHOD,
        "version": VERSION,
        **asdict(compressed.layout),
        "weights": stored,
        "activations": activations,
    }
