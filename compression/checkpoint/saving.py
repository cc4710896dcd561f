"""Writes a compressed model as a checkpoint, safetensors only, and loads one again.

- A plain model is written plain: pruned models dense, students and uniformly smaller models with
  the configuration that describes them. They load anywhere.
- Quantized layers are packed by compressed-tensors where that has the scheme and transformers
  loads it: symmetric integers or float8, a scale per tensor, channel or group, in linear layers.
- Everything else takes the project's own format, :mod:`compression.checkpoint.own_format`:
  also what compressed-tensors has a scheme for and does not load again.

What was written is loaded and run once before it is given its name.
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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compression_gates.compression.checkpoint.own_format import METHOD, VERSION, stored_as
from compression_gates.compression.checkpoint.packing import describe_grid, pack, to_bitmask
from compression_gates.compression.checkpoint.reloading import check_reloads
from compression_gates.compression.checkpoint.tokenizer_files import save_tokenizer
from compression_gates.compression.compressed import Compressed
from compression_gates.compression.errors import CompressionError, is_failure, reason_of
from compression_gates.compression.model.layers import Layer, all_layers, stack_of
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.quantization.activations import input_format
from compression_gates.compression.quantization.grids import Float8, Quantized, Uniform

PLAIN, COMPRESSED_TENSORS = "plain", "compressed-tensors"


def form_of(compressed: Compressed) -> str:
    """The format that the model is written in, if that loads."""
    if compressed.layout or compressed.bitmask:
        return METHOD
    if not compressed.quantized:
        return PLAIN
    layers = all_layers(compressed.model)
    fits = all(_fits(layers[name], quantized) for name, quantized in compressed.quantized.items())
    formats = {_format(q) for q in compressed.quantized.values()}
    return COMPRESSED_TENSORS if fits and len(formats) == 1 else METHOD


def _fits(layer: Layer, quantized: Quantized) -> bool:
    """Whether compressed-tensors can hold the layer."""
    grid = quantized.grid
    known = isinstance(grid, Float8) or (isinstance(grid, Uniform) and grid.symmetric)
    # Beside rounded activations it keeps a byte for every weight.
    return (
        known
        and isinstance(layer.module, nn.Linear)
        and (grid.bits == 8 or not quantized.activations)
    )


def save(compressed: Compressed, tokenizer: PreTrainedTokenizerBase, directory: Path) -> str:
    """Writes model and tokenizer to ``directory``, whole or not at all; returns the format.

    Raises:
        FileExistsError: ``directory`` exists.
        CompressionError: a weight that is no longer on its grid, or a checkpoint that does not
            give back the model; nothing is left behind.
    """
    directory = Path(directory)
    if os.path.lexists(directory):
        raise FileExistsError(f"{directory} exists; name a directory that does not")
    layers = all_layers(compressed.model)
    for name, quantized in compressed.quantized.items():
        if not torch.equal(layers[name].weight, quantized.dequantized()):
            raise CompressionError(f"layer {name}: its weight is not what its codes stand for")
    with tempfile.TemporaryDirectory(
        prefix=f"{directory.name}.", suffix=".partial", dir=directory.parent
    ) as scratch:
        partial, form = _first_that_reloads(compressed, tokenizer, Path(scratch))
        partial.rename(directory)
    return form


def _first_that_reloads(
    compressed: Compressed, tokenizer: PreTrainedTokenizerBase, scratch: Path
) -> tuple[Path, str]:
    """Writes the checkpoint into ``scratch``; where it lies, and its format.

    Some architectures ask layers for a weight that compressed-tensors has not unpacked yet; and of
    an input of two dimensions compressed-tensors rounds each number by itself.
    """
    form = form_of(compressed)
    forms = [form, METHOD] if form == COMPRESSED_TENSORS else [form]
    reasons: list[str] = []
    for form in forms:
        try:
            notes = _write_checked(compressed, tokenizer, scratch / form, form)
        except (OSError, SafetensorError):
            raise  # of the disk, and no fault of the format
        except BaseException as error:  # writers and loaders are anybody's code
            if not is_failure(error):
                raise
            reasons.append(str(error) if isinstance(error, CompressionError) else reason_of(error))
            shutil.rmtree(scratch / form, ignore_errors=True)
        else:
            compressed.notes += [f"not stored as {COMPRESSED_TENSORS}: {why}" for why in reasons]
            compressed.notes += notes
            return scratch / form, form
    raise CompressionError(f"the checkpoint is of no use and was not kept: {reasons[-1]}")


def _write_checked(
    compressed: Compressed, tokenizer: PreTrainedTokenizerBase, directory: Path, form: str
) -> list[str]:
    """Writes a checkpoint and loads it again; returns notes on what could not be compared.

    Raises:
        CompressionError: it does not give back the model.
    """
    _write(compressed, directory, form)
    save_tokenizer(tokenizer, directory)
    return check_reloads(compressed.model, directory)


def load(directory: Path, auto: type, **options: object) -> PreTrainedModel:
    """The model of a checkpoint that :func:`save` wrote, bit by bit what was computed with.

    Args:
        directory: what was written.
        auto: the class of transformers whose ``from_pretrained`` loads it.
        options: for ``from_pretrained``.
    """
    return auto.from_pretrained(directory, use_safetensors=True, **options).eval()


def _write(compressed: Compressed, directory: Path, form: str) -> None:
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
        # Our own names are those of the running model, whose experts share a parameter.
        model.save_pretrained(directory, save_original_format=form != METHOD)
    if description is not None:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        config["quantization_config"] = description
        path.write_text(json.dumps(config, indent=2) + "\n")


def _format(quantized: Quantized) -> str:
    """What compressed-tensors calls the layer's format."""
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
    """The ``quantization_config`` by which a loader knows the packed layers."""
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
    """What is stored in place of each parameter, and how it is described."""
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
    for name, found in parts.items():
        key = name.rpartition(".")[2]
        experts = stored[name]["form"] == "packed" and len(stored[name]["shape"]) == 3
        tensors[name] = {
            f"{key}_{part}": torch.stack([one[part] for one in found])
            if experts
            else found[0][part]
            for part in found[0]
        }
    return tensors, stored


def _experts(layer: Layer) -> list[int]:
    return [] if layer.expert is None else [len(stack_of(layer.module, layer.stored))]


def _describe_own(
    compressed: Compressed, stored: Mapping[str, Mapping[str, object]]
) -> dict[str, object]:
    rounded = {
        name: input_format(quantized.grid)
        for name, quantized in compressed.quantized.items()
        if quantized.activations
    }
    return {
        "quant_method": METHOD,
        "version": VERSION,
        **asdict(compressed.layout),
        "weights": stored,
        "activations": rounded,
    }
