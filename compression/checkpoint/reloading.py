"""Loads a checkpoint that was just written as its users will, and compares it with the model."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression_gates.compression.errors import CompressionError, reason_of
from compression_gates.compression.model.capture import own_luck
from compression_gates.compression.model.quiet import quiet
from compression_gates.compression.model.tracing import run_probe, takes_tokens


def check_reloads(model: PreTrainedModel, directory: Path, exact: bool = True) -> None:
    """Raises a CompressionError where a checkpoint does not give back its model.

    It is loaded on the CPU by ``from_pretrained`` of the model's class; its tensors must be those
    of ``model``, bit for bit, and it must run on a few tokens.

    Args:
        model: what was written.
        directory: what was written to.
        exact: the outputs must be the model's too. Loaders round the inputs of some layers
            otherwise than the model does.
    """
    try:
        with quiet(), own_luck(model.device):
            loaded, report = type(model).from_pretrained(
                directory, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
            loaded.eval()
    except Exception as error:  # it is anybody's code that loads it
        raise CompressionError(f"it does not load: {reason_of(error)}") from error
    for name, kind in (("missing_keys", "lacks"), ("mismatched_keys", "has another shape for")):
        for key in sorted(key if isinstance(key, str) else key[0] for key in report[name]):
            raise CompressionError(f"it {kind} {key}")
    outputs = expected = None
    try:
        if takes_tokens(model):
            with quiet(), torch.no_grad(), own_luck(model.device):
                outputs, expected = run_probe(loaded), run_probe(model)
    except Exception as error:
        raise CompressionError(f"it does not run: {reason_of(error)}") from error
    # compressed-tensors unpacks its layers when they are first used.
    for name in _differing(model.state_dict(), loaded.state_dict()):
        raise CompressionError(f"it loads other values for {name}")
    # Another device has other kernels, and float16 may overflow on one of them.
    comparable = outputs is not None and model.device == loaded.device
    if exact and comparable and not _agree(outputs, expected):
        raise CompressionError("it computes something else than the model that was written")


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
    """Whether outputs are the same but for what another order of summation leaves. Where a model
    overflows, so does what was loaded."""
    if outputs.shape != expected.shape or not torch.equal(outputs.isfinite(), expected.isfinite()):
        return False
    share = torch.finfo(expected.dtype).eps ** 0.5
    after, before = (tensor.double().nan_to_num(0, 0, 0) for tensor in (outputs, expected))
    return bool((after - before).norm() <= share * before.norm())
