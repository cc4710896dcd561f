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
_PRODUCTS = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)


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
def forward_replaced(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """Replace the forward function of a module; its hooks remain."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def capture_inputs(
    model: PreTrainedModel, layers: Mapping[str, Layer], on_inputs: OnInputs
) -> Iterator[None]:
    """Call ``on_inputs(name, inputs)`` before each use of a layer.

    An exception that it raises ends the forward pass.
    """
    with ExitStack() as stack:
        stack.enter_context(capture_module_inputs(layers, on_inputs))
        if any(layer.expert is not None for layer in layers.values()):
            stack.enter_context(eager_experts(model))
            stack.enter_context(capture_expert_inputs(layers, on_inputs))
        yield


@contextmanager
def capture_module_inputs(layers: Mapping[str, Layer], on_inputs: OnInputs) -> Iterator[None]:
    """As :func:`capture_inputs`, for the layers that are modules."""
    names = {id(layer.module): name for name, layer in layers.items() if layer.expert is None}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> object:
        before = set(module._forward_pre_hooks)
        on_inputs(names[id(module)], inputs[0] if inputs else next(iter(named.values())))
        # The call in progress does not run hooks that were registered meanwhile.
        for key, later in list(module._forward_pre_hooks.items()):
            if key not in before and (changed := later(module, inputs)) is not None:
                inputs = changed if isinstance(changed, tuple) else (changed,)
        return inputs, named

    with ExitStack() as stack:
        for layer in layers.values():
            if layer.expert is None:
                stack.enter_context(layer.module.register_forward_pre_hook(hook, with_kwargs=True))
        yield


@contextmanager
def capture_expert_inputs(layers: Mapping[str, Layer], on_inputs: OnInputs) -> Iterator[None]:
    """As :func:`capture_inputs`, for experts that are slices of a parameter, in this thread.

    The model must compute its experts separately, as in :func:`eager_experts`.
    """
    experts = {name: layer for name, layer in layers.items() if layer.expert is not None}
    if not experts:
        yield
        return
    with _ExpertInputs(experts, on_inputs):
        yield


class _ExpertInputs(TorchFunctionMode):
    """Intercept products with slices of an experts' parameter, which have no module to hook."""

    def __init__(self, experts: Mapping[str, Layer], on_inputs: OnInputs):
        super().__init__()
        self.experts = experts
        self.parameters = {id(layer.stored): layer.stored for layer in experts.values()}.values()
        self.on_inputs = on_inputs
        self.addresses: list[int] = []
        self.names: dict[int, str] = {}
        self.stacked: dict[int, dict[int, str]] = {}

    def locate(self) -> None:
        """Update the addresses of the experts, which change if their parameters are moved."""
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        if addresses == self.addresses:
            return
        self.addresses, self.stacked = addresses, {}
        self.names = {layer.weight.data_ptr(): name for name, layer in self.experts.items()}
        for name, layer in self.experts.items():
            self.stacked.setdefault(layer.stored.data_ptr(), {})[layer.expert] = name

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _PRODUCTS and len(args) > 1:
            self.locate()
        if function is torch.bmm and len(args) > 1:
            # All experts at once: the row of a token that is not routed to an expert is zero.
            for expert, name in self.stacked.get(args[1].data_ptr(), {}).items():
                inputs = args[0][expert]
                self.on_inputs(name, inputs[inputs.any(dim=-1)])
        elif function in _PRODUCTS and len(args) > 1:
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
