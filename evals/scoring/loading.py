"""Loads a checkpoint whole, or says what is wrong with it."""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    QuantizedCache,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from evals.checkpoint import ADAPTER_WEIGHTS, CAUSAL, CLASSIFIER, EXTRACTIVE, SEQ2SEQ, Checkpoint
from evals.device import AUTO, CPU
from evals.errors import EvalError, listed
from evals.formats import GGUF, PLAIN, check_device, format_of

_AUTO = {
    CAUSAL: AutoModelForCausalLM,
    CLASSIFIER: AutoModelForSequenceClassification,
    EXTRACTIVE: AutoModelForQuestionAnswering,
    SEQ2SEQ: AutoModelForSeq2SeqLM,
}
REASON = 300
"""Characters that are told of a loader's own error."""
_NO_LIMIT = 1 << 30
PROBED = 16
"""Tokens of the forward pass that a model is tried with when it is loaded."""
_DECODED = ("eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
_PROBLEMS = {
    "missing_keys": "lacks",
    "unexpected_keys": "has unexpected",
    "mismatched_keys": "has the wrong shape for",
}


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, and its tokenizer."""

    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        table = self.model.get_input_embeddings()
        hook = getattr(table, "_hf_hook", None)
        placed = getattr(hook, "execution_device", None)  # of weights that wait elsewhere
        return table.weight.device if placed is None else torch.device(placed)

    @property
    def first_decoded(self) -> int:
        """What a decoder begins with, of a model that has one of its own."""
        config = self.model.config
        first = getattr(config, "decoder_start_token_id", None)
        return config.pad_token_id if first is None else first

    @property
    def ends(self) -> list[int]:
        """Tokens that end what the model says."""
        own = self.model.generation_config.eos_token_id
        own = own if isinstance(own, list) else [own]
        return sorted({end for end in (self.tokenizer.eos_token_id, *own) if end is not None})

    def inputs(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What one forward pass over ``ids`` ``(rows, tokens)`` takes, no token masked."""
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {**found, "decoder_input_ids": ids} if self.checkpoint.kind == SEQ2SEQ else found

    @property
    def max_tokens(self) -> int:
        """The longest input that the model takes, special tokens included."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or _NO_LIMIT
        for name, module in self.model.named_modules():
            # RoBERTa counts positions from behind its padding index.
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                behind = 0 if module.padding_idx is None else module.padding_idx + 1
                limit = min(limit, module.num_embeddings - behind)
        return limit


def load(
    checkpoint: Checkpoint,
    device: str = CPU,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> Loaded:
    """Loads model and tokenizer; in the dtype that the checkpoint names where it is ``auto``.

    transformers "loads" a checkpoint that lacks weights with random ones and only logs it; here
    every missing, unexpected or mismatched key is an error.

    Raises:
        EvalError: names the checkpoint and the first keys at fault, or the loader's own reason.
    """
    check_device(checkpoint.path, checkpoint.form, device)
    source = checkpoint.base or checkpoint
    method = source.form.partition(" ")[0]
    known = (PLAIN, GGUF, *AUTO_QUANTIZATION_CONFIG_MAPPING)
    # bitsandbytes goes by its number of bits there.
    if not any(name == method or name.startswith(f"{method}_") for name in known):
        # transformers would leave it aside, and take codes for numbers.
        raise EvalError(f"{source.path}: transformers knows no quant_method {method!r}")
    placed = format_of(source.form).placed
    with _explained(checkpoint):
        model, report = _AUTO[checkpoint.kind].from_pretrained(
            source.path,
            dtype=dtype,
            device_map=AUTO if device == AUTO else {"": device} if placed else None,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            trust_remote_code=trust_remote_code,
            **({"gguf_file": source.file} if source.file else {}),
        )
        if checkpoint.base is not None:
            model = merged(model, checkpoint.path)
    tokenizer = load_tokenizer(checkpoint, trust_remote_code)
    for field, verb in _PROBLEMS.items():
        if report.get(field):
            raise EvalError(f"{checkpoint.path} {verb} {_some(report[field])}")
    known, held = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if known >= held:
        raise EvalError(
            f"{checkpoint.path}: its tokenizer gives ids up to {known}, its embedding holds {held}"
        )
    if report.get("error_msgs"):
        raise EvalError(f"{checkpoint.path} does not load: {report['error_msgs'][0]}")
    loaded = Loaded(checkpoint, model.eval(), tokenizer)
    with _explained(checkpoint):
        if device != AUTO and not placed:
            model.to(device)
        with torch.inference_mode():
            # Packed weights are unpacked by the first forward.
            ids = torch.arange(min(PROBED, held), device=loaded.device)[None]
            output = model(**loaded.inputs(ids))
    whole = checkpoint.form == PLAIN and not any(p.is_meta for p in model.parameters())
    if not whole and not _first(output).isfinite().all():
        # Scales of a packed weight are not among its tensors for every library.
        raise EvalError(f"{checkpoint.path} predicts what is not finite")
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:  # it waits on disk or on the CPU until it is used
            continue
        if tensor.is_floating_point() and not _plain(tensor).isfinite().all():
            raise EvalError(f"{checkpoint.path}: {name} holds values that are not finite")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked wherever it stands
    if tokenizer.pad_token_id is None:
        raise EvalError(f"{checkpoint.path}: its tokenizer has no padding and no last token")
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if checkpoint.kind in (CAUSAL, SEQ2SEQ):
        with _explained(checkpoint):
            model.generation_config = _decoding(model)
    return loaded


def load_config(checkpoint: Checkpoint, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a checkpoint's text model, as transformers loads the model with.

    Raises:
        EvalError: names the checkpoint and the loader's own reason.
    """
    source = checkpoint.base or checkpoint
    with _explained(checkpoint):
        return AutoConfig.from_pretrained(
            source.path,
            trust_remote_code=trust_remote_code,
            **({"gguf_file": source.file} if source.file else {}),
        ).get_text_config()


def load_tokenizer(
    checkpoint: Checkpoint, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        EvalError: names the checkpoint and the loader's own reason.
    """
    if checkpoint.tokenizer is None:
        raise EvalError(f"{checkpoint.path}: no tokenizer beside {checkpoint.file}")
    with _explained(checkpoint):
        found = AutoTokenizer.from_pretrained(
            checkpoint.tokenizer, trust_remote_code=trust_remote_code
        )
    limit = found.model_max_length
    if not isinstance(limit, int | float) or limit < 1:
        raise EvalError(f"{checkpoint.tokenizer}: model_max_length = {limit!r} is no length")
    return found


def merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """A model with a LoRA adapter merged into its weights.

    Raises:
        EvalError: the adapter lacks weights, or has some that the model has no place for.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys, which are told below
        adapted = PeftModel.from_pretrained(model, adapter, use_safetensors=True)
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as stream:
        held = set(stream.keys())
    wanted = set(get_peft_model_state_dict(adapted))
    for keys, verb in ((wanted - held, "lacks"), (held - wanted, "has unexpected")):
        if keys:
            raise EvalError(f"{adapter} {verb} {_some(keys)}")
    return adapted.merge_and_unload(safe_merge=True)


def _first(output) -> torch.Tensor:
    """Logits of an output, whichever kind of model it is of."""
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of a kind that can be asked whether it is finite."""
    if not is_plain(tensor) and hasattr(tensor, "dequantize"):
        tensor = tensor.dequantize()
    return tensor.float() if tensor.element_size() == 1 else tensor


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds its numbers themselves, not a library's own packing of them."""
    return type(tensor) in (torch.Tensor, nn.Parameter)


def _decoding(model: PreTrainedModel) -> GenerationConfig:
    """Greedy for everyone: penalties that a checkpoint brings are not compression. The tokens that
    begin and end an answer stay, and so does a quantized cache, which is compression."""
    asked = model.generation_config
    kept = {name: getattr(asked, name) for name in _DECODED if getattr(asked, name) is not None}
    for name, value in kept.items():
        for token in value if isinstance(value, list) else [value]:
            if not isinstance(token, int) or not 0 <= token < model.config.vocab_size:
                raise EvalError(f"generation_config.json: {name} = {value!r} is no token")
    if asked.cache_implementation == "quantized":
        settings = asked.cache_config or {}
        # Made once here, so that a package that it lacks is missed now.
        QuantizedCache(**{"backend": "quanto", "config": model.config, **settings})
        kept |= {"cache_implementation": "quantized", "cache_config": settings}
    return GenerationConfig(**kept)


@contextmanager
def _explained(checkpoint: Checkpoint) -> Iterator[None]:
    """Keeps the loaders' logs and bars off the terminal, and puts their errors in one line."""
    verbosity, root = transformers_logging.get_verbosity(), logging.getLogger().level
    transformers_logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    except EvalError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:REASON] or "no reason given"
        raise EvalError(
            f"{checkpoint.path} does not load: {type(error).__name__}: {reason}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        logging.getLogger().setLevel(root)


def _some(keys: Iterable) -> str:
    return listed(sorted(key if isinstance(key, str) else str(key[0]) for key in keys))
