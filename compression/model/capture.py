"""Capture the inputs of layers, including experts of a mixture, during a forward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from compression_gates.compression.model.layers import Layer

Batch = Mapping[str, Tensor]
OnInputs = Callable[[str, Tensor], None]
"""Called with the name of a layer and its inputs ``(..., in_features)``."""


@contextmanager
def forked_rng(device: torch.device) -> Iterator[None]:
    """Fork the torch RNG of the CPU and of ``device``, and restore it on exit."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def without_cache(model: PreTrainedModel) -> Iterator[None]:
    """Disable the cache of keys and values, also of parts with their own configuration (T5)."""
    parts = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    with ExitStack() as stack:
        for config in (model.config.get_text_config(), *parts):
            if getattr(config, "use_cache", False):
                stack.callback(setattr, config, "use_cache", config.use_cache)
                config.use_cache = False
        yield


@contextmanager
def capture_inputs(
    model: PreTrainedModel, layers: Mapping[str, Layer], on_inputs: OnInputs
) -> Iterator[None]:
    """Call ``on_inputs(name, inputs)`` before each use of a layer.

    An exception that it raises ends the forward pass.
    """
    names = {id(layer.module): name for name, layer in layers.items() if layer.expert is None}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        on_inputs(names[id(module)], inputs[0] if inputs else next(iter(named.values())))

    with ExitStack() as stack:
        for layer in layers.values():
            if layer.expert is None:
                stack.enter_context(layer.module.register_forward_pre_hook(hook, with_kwargs=True))
        experts = {name: layer for name, layer in layers.items() if layer.expert is not None}
        if experts:
            stack.enter_context(eager_experts(model))
            stack.enter_context(_ExpertInputs(experts, on_inputs))
        yield


class _ExpertInputs(TorchFunctionMode):
    """Intercept products with slices of an experts' parameter, which have no module to hook."""

    def __init__(self, experts: Mapping[str, Layer], on_inputs: OnInputs):
        super().__init__()
        self.names = {layer.weight.data_ptr(): name for name, layer in experts.items()}
        self.stacked: dict[int, dict[int, str]] = {}
        for name, layer in experts.items():
            self.stacked.setdefault(layer.stored.data_ptr(), {})[layer.expert] = name
        self.on_inputs = on_inputs

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.bmm and len(args) > 1:
            # All experts at once: the row of a token that is not routed to an expert is zero.
            for expert, name in self.stacked.get(args[1].data_ptr(), {}).items():
                inputs = args[0][expert]
                self.on_inputs(name, inputs[inputs.any(dim=-1)])
        if function in (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__) and len(args) > 1:
            name = self.names.get(args[1].data_ptr())
            if name is not None:
                self.on_inputs(name, args[0])
        return function(*args, **(kwargs or {}))


@contextmanager
def eager_experts(model: PreTrainedModel) -> Iterator[None]:
    """Compute each expert separately rather than all in one fused kernel."""
    before = model.config._experts_implementation
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def one_by_one(batch: Batch, seq2seq: bool) -> Iterator[Batch]:
    """Yield the texts of a batch one at a time, without padding.

    In a ``seq2seq`` model, labels and tensors named ``decoder_*`` have the decoder's length.
    """
    for row in range(len(next(iter(batch.values())))):
        text = {}
        for key, value in batch.items():
            part = value[row : row + 1]
            decoder = seq2seq and (key.startswith("decoder_") or key == "labels")
            mask = batch.get("decoder_attention_mask" if decoder else "attention_mask")
            if decoder and mask is None and "labels" in batch:
                mask = batch["labels"] != -100
            if mask is not None and mask.ndim == 2 and value.shape[:2] == mask.shape:
                part = part[:, mask[row].bool()]
            text[key] = part
        yield text
