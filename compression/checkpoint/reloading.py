"""Load a checkpoint as its users will, and compare it with the model that was saved."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.errors import CompressionError, reason_of
from compression_gates.compression.model.capture import forked_rng
from compression_gates.compression.model.pretrained import loading_problem
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.tracing import run_probe, takes_tokens

TOLERANCE = 16 * torch.finfo(torch.float32).eps
"""Allowed difference of outputs, relative to the largest one. Equal weights in equal layers give
equal outputs in every dtype, except in float32 kernels that depend on memory alignment."""
_WRITTEN = {
    "quantization_config",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "architectures",
    "_name_or_path",
}
"""Keys of a configuration that saving sets."""


def check_reloads(model: PreTrainedModel, directory: Path) -> list[str]:
    """Raise a CompressionError if a checkpoint differs from the model that was saved.

    The checkpoint is loaded on the CPU with ``from_pretrained`` of the model's class. Its
    configurations and tensors must equal those of ``model``, and its outputs on a few tokens must
    agree within :data:`TOLERANCE`.

    Args:
        model: the model that was saved.
        directory: the checkpoint.

    Returns:
        Notes on comparisons that were not possible.
    """
    try:
        with quiet(), forked_rng(model.device):
            loaded, report = type(model).from_pretrained(
                directory, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
            loaded.eval()
    except Exception as error:  # the model class can be third-party code
        raise CompressionError(f"it does not load: {reason_of(error)}") from error
    if problem := loading_problem(report):
        raise CompressionError(f"it {problem}")
    _check_settings(model, loaded)
    _cast_buffers(model, loaded)
    outputs, reason = _outputs(model, loaded)
    # After running, because compressed-tensors unpacks layers on first use.
    for name in _differing(model.state_dict(), loaded.state_dict()):
        raise CompressionError(f"it loads other values for {name}")
    if outputs is None:
        return [f"the checkpoint's outputs were not compared: {reason}"]
    if not _agree(*outputs):
        raise CompressionError("its outputs differ from those of the model that was saved")
    return []


def _check_settings(model: PreTrainedModel, loaded: PreTrainedModel) -> None:
    for name in ("config", "generation_config"):
        configs = [getattr(side, name, None) for side in (model, loaded)]
        if None in configs:
            continue
        before, after = (_comparable(config.to_dict()) for config in configs)
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                raise CompressionError(
                    f"its {name}.json has {key} = {after.get(key)!r}, but the model has "
                    f"{before.get(key)!r}"
                )


def _comparable(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings as JSON represents them, without :data:`_WRITTEN`."""

    def kept(value: object) -> object:
        if isinstance(value, dict):
            return {key: kept(inner) for key, inner in value.items() if key not in _WRITTEN}
        return value

    return kept(json.loads(json.dumps(settings, default=str)))


def _cast_buffers(model: PreTrainedModel, loaded: PreTrainedModel) -> None:
    """Cast buffers to their dtype in ``model``.

    ``model.to(torch.bfloat16)`` also casts position tables, which checkpoints do not contain and
    ``from_pretrained`` computes in float32.
    """
    buffers = dict(loaded.named_buffers())
    for name, buffer in model.named_buffers():
        if name in buffers and buffer.is_floating_point():
            buffers[name].data = buffers[name].data.to(buffer.dtype)


def _outputs(
    model: PreTrainedModel, loaded: PreTrainedModel
) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """Return the outputs of the checkpoint and of the model; or None, and why there are none."""
    if not takes_tokens(model):
        return None, "the model does not accept tokens"
    with quiet(), torch.no_grad(), forked_rng(model.device):
        try:
            expected, reason = run_probe(model), ""
        except Exception as error:  # the model class can be third-party code
            expected, reason = None, reason_of(error)
        try:
            outputs = run_probe(loaded)
        except Exception as error:
            if expected is None:
                return None, reason
            raise CompressionError(f"it does not run: {reason_of(error)}") from error
    if model.device != loaded.device:
        # Kernels differ between devices, and float16 may overflow on one of them only.
        return None, (
            f"the model is on {model.device}, the checkpoint was loaded on {loaded.device}"
        )
    return ((outputs, expected), "") if expected is not None else (None, reason)


def _differing(tensors: dict[str, Tensor], loaded: dict[str, Tensor]) -> Iterator[str]:
    """Yield the names of tensors whose values differ, irrespective of their dtypes."""
    for name, tensor in tensors.items():
        other = loaded.get(name)
        if other is None or other.shape != tensor.shape:
            yield name
            continue
        if not torch.equal(tensor.detach().cpu().double(), other.cpu().double()):
            yield name


def _agree(outputs: Tensor, expected: Tensor) -> bool:
    """Return whether outputs agree within :data:`TOLERANCE` and overflow at the same positions."""
    if outputs.shape != expected.shape or not torch.equal(outputs.isfinite(), expected.isfinite()):
        return False
    after, before = (tensor.double().nan_to_num(0, 0, 0) for tensor in (outputs, expected))
    if not before.numel():
        return True
    return bool((after - before).abs().max() <= TOLERANCE * before.abs().max())
