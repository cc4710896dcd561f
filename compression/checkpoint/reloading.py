"""Loads a checkpoint that was just written as its users will, and compares it with the model."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.errors import CompressionError, reason_of
from compression_gates.compression.model.capture import forked_rng
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.tracing import run_probe, takes_tokens

TOLERANCE = 16 * torch.finfo(torch.float32).eps
"""How much an output may differ, as a share of the largest one. The same weights in the same
layers give the same bits in every dtype, but for float32 kernels that depend on alignment."""
_KEYS = {
    "missing_keys": "lacks",
    "unexpected_keys": "has unexpected",
    "mismatched_keys": "has another shape for",
}
_WRITTEN = {
    "quantization_config",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "architectures",
    "_name_or_path",
}
"""Keys of a configuration that writing a checkpoint sets."""


def check_reloads(model: PreTrainedModel, directory: Path) -> list[str]:
    """Raises a CompressionError where a checkpoint does not give back its model.

    It is loaded on the CPU by ``from_pretrained`` of the model's class. Its configurations and its
    tensors must be those of ``model``, bit for bit, and so must its outputs on a few tokens.

    Args:
        model: what was written.
        directory: what was written to.

    Returns:
        notes on what could not be compared.
    """
    try:
        with quiet(), forked_rng(model.device):
            loaded, report = type(model).from_pretrained(
                directory, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
            loaded.eval()
    except Exception as error:  # it is anybody's code that loads it
        raise CompressionError(f"it does not load: {reason_of(error)}") from error
    for kind, verb in _KEYS.items():
        for key in sorted(key if isinstance(key, str) else key[0] for key in report[kind]):
            raise CompressionError(f"it {verb} {key}")
    _check_settings(model, loaded)
    _cast_buffers(model, loaded)
    outputs, reason = _outputs(model, loaded)
    # Not before they ran: compressed-tensors unpacks its layers when they are first used.
    for name in _differing(model.state_dict(), loaded.state_dict()):
        raise CompressionError(f"it loads other values for {name}")
    if outputs is None:
        return [f"the checkpoint's outputs were not compared: {reason}"]
    if not _agree(*outputs):
        raise CompressionError("it computes something else than the model that was written")
    return []


def _check_settings(model: PreTrainedModel, loaded: PreTrainedModel) -> None:
    for name in ("config", "generation_config"):
        written, read = (getattr(side, name, None) for side in (model, loaded))
        if written is None or read is None:
            continue
        before, after = (_comparable(settings.to_dict()) for settings in (written, read))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                raise CompressionError(
                    f"its {name}.json says {key} = {after.get(key)!r}, but the model has "
                    f"{before.get(key)!r}"
                )


def _comparable(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings as JSON holds them, without what writing a checkpoint sets."""

    def kept(value: object) -> object:
        if isinstance(value, dict):
            return {key: kept(inner) for key, inner in value.items() if key not in _WRITTEN}
        return value

    return kept(json.loads(json.dumps(settings, default=str)))


def _cast_buffers(model: PreTrainedModel, loaded: PreTrainedModel) -> None:
    """Gives buffers the dtype that they have in ``model``: ``model.to(torch.bfloat16)`` also rounds
    tables of positions, which no checkpoint holds and a loader computes in float32."""
    buffers = dict(loaded.named_buffers())
    for name, buffer in model.named_buffers():
        if name in buffers and buffer.is_floating_point():
            buffers[name].data = buffers[name].data.to(buffer.dtype)


def _outputs(
    model: PreTrainedModel, loaded: PreTrainedModel
) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """Outputs of the checkpoint and of the model on a probe; or None, and why there are none."""
    if not takes_tokens(model):
        return None, "the model takes no tokens"
    with quiet(), torch.no_grad(), forked_rng(model.device):
        try:
            expected, reason = run_probe(model), ""
        except Exception as error:  # a model may be anybody's code
            expected, reason = None, reason_of(error)
        try:
            outputs = run_probe(loaded)
        except Exception as error:
            if expected is None:
                return None, reason
            raise CompressionError(f"it does not run: {reason_of(error)}") from error
    if model.device != loaded.device:
        # Another device has other kernels, and float16 may overflow on one of them.
        return None, (
            f"the model is on {model.device}, the checkpoint was loaded on {loaded.device}"
        )
    return ((outputs, expected), "") if expected is not None else (None, reason)


def _differing(tensors: dict[str, Tensor], loaded: dict[str, Tensor]) -> Iterator[str]:
    """Names of tensors that are not the same numbers; a wider dtype holds them too."""
    for name, tensor in tensors.items():
        other = loaded.get(name)
        if other is None or other.shape != tensor.shape:
            yield name
            continue
        if not torch.equal(tensor.detach().cpu().double(), other.cpu().double()):
            yield name


def _agree(outputs: Tensor, expected: Tensor) -> bool:
    """Whether outputs are the same within :data:`TOLERANCE`. Where a model overflows, so does what
    was loaded."""
    if outputs.shape != expected.shape or not torch.equal(outputs.isfinite(), expected.isfinite()):
        return False
    after, before = (tensor.double().nan_to_num(0, 0, 0) for tensor in (outputs, expected))
    if not before.numel():
        return True
    return bool((after - before).abs().max() <= TOLERANCE * before.abs().max())
