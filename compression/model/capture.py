"""Watches what the layers of a model are given while it runs, experts of a mixture included."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from compression_gates.compression.model.layers import Layer

Batch = Mapping[str, Tensor]
See = Callable[[str, Tensor], None]


@contextmanager
def forked_rng(device: torch.device) -> Iterator[None]:
    """Forks the torch RNG, of the CPU and of ``device``, and restores it on exit."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def without_cache(model: PreTrainedModel) -> Iterator[None]:
    """Has the model keep no keys and values of what it reads, which nothing here needs."""
    with ExitStack() as stack:
        for config in (model.config, model.config.get_text_config()):
            if getattr(config, "use_cache", False):
                stack.callback(setattr, config, "use_cache", config.use_cache)
                config.use_cache = False
        yield


@contextmanager
def watched(model: PreTrainedModel, layers: Mapping[str, Layer], see: See) -> Iterator[None]:
    """While it is open, ``see(name, inputs)`` is called before each use of a layer.

    What ``see`` raises leaves the forward.
    """
    names = {id(layer.module): name for name, layer in layers.items() if layer.expert is None}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        see(names[id(module)], inputs[0] if inputs else next(iter(named.values())))

    with ExitStack() as stack:
        for layer in layers.values():
            if layer.expert is None:
                stack.enter_context(layer.module.register_forward_pre_hook(hook, with_kwargs=True))
        experts = {name: layer for name, layer in layers.items() if layer.expert is not None}
        if experts:
            stack.enter_context(_eager_experts(model))
            stack.enter_context(_Products(experts, see))
        yield


class _Products(TorchFunctionMode):
    """Sees products with a slice of an experts' parameter: there is no module to hook."""

    def __init__(self, experts: Mapping[str, Layer], see: See):
        super().__init__()
        self.names = {layer.weight.data_ptr(): name for name, layer in experts.items()}
        self.stacked: dict[int, dict[int, str]] = {}
        for name, layer in experts.items():
            self.stacked.setdefault(layer.stored.data_ptr(), {})[layer.expert] = name
        self.see = see

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.bmm and len(args) > 1:
            # All experts at once: a token that is not routed to one is a row of zeros there.
            for expert, name in self.stacked.get(args[1].data_ptr(), {}).items():
                inputs = args[0][expert]
                self.see(name, inputs[inputs.any(dim=-1)])
        if function in (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__) and len(args) > 1:
            name = self.names.get(args[1].data_ptr())
            if name is not None:
                self.see(name, args[0])
        return function(*args, **(kwargs or {}))


@contextmanager
def _eager_experts(model: PreTrainedModel) -> Iterator[None]:
    """Has each expert computed by itself, not all in one fused kernel."""
    before = model.config._experts_implementation
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def one_by_one(batch: Batch, seq2seq: bool) -> Iterator[Batch]:
    """The texts of a batch one at a time, without their padding.

    In a ``seq2seq`` model, labels and what is named ``decoder_`` run along the decoder's input.
    """
    for row in range(len(next(iter(batch.values())))):
        found = {}
        for key, value in batch.items():
            part = value[row : row + 1]
            decoder = seq2seq and (key.startswith("decoder_") or key == "labels")
            mask = batch.get("decoder_attention_mask" if decoder else "attention_mask")
            if decoder and mask is None and "labels" in batch:
                mask = batch["labels"] != -100
            if mask is not None and mask.ndim == 2 and value.shape[:2] == mask.shape:
                part = part[:, mask[row].bool()]
            found[key] = part
        yield found
