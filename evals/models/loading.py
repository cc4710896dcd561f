"""Loads a checkpoint whole, or says what is wrong with it."""

import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import (
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from compression_gates.evals.checkpoints.checkpoint import (
    ADAPTER_WEIGHTS,
    CAUSAL,
    SEQ2SEQ,
    Checkpoint,
)
from compression_gates.evals.checkpoints.description import check_description
from compression_gates.evals.checkpoints.files import borrowed_code, read_files
from compression_gates.evals.checkpoints.formats import (
    GGUF,
    PLAIN,
    check_device,
    format_of,
    read_by,
)
from compression_gates.evals.checkpoints.plain_use import PlainUse, attempt
from compression_gates.evals.checkpoints.tensors import tensor_names
from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.models.configurations import (
    MODEL_CLASSES,
    end_tokens,
    file_in,
    greedy_generation,
    read_config,
)
from compression_gates.evals.models.device import AUTO, CPU
from compression_gates.evals.models.quanto import unpack_in_python
from compression_gates.evals.models.warned import explained

MOST_PER_BYTE = 64
"""Weights that a byte of a file may stand for; 8 of a bit each, and whole zero blocks."""
MOST_BUFFERED = 1 << 33
"""Entries of the tables that a model makes beside its weights, such as masks."""
_NO_LIMIT = 1 << 30
PROBED = 16
"""Tokens of the forward pass that a model is tried with when it is loaded."""
_PROBLEMS = {
    "missing_keys": "lacks",
    "unexpected_keys": "has unexpected",
    "mismatched_keys": "has the wrong shape for",
}
_NOT_WHOLE = {"unexpected_keys": "has no place for", "mismatched_keys": "wants another shape of"}
"""How the loader takes a format that it knows in part."""
_OLD_BUFFERS = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")
"""Tensors of older versions that transformers leaves aside, whatever the model."""


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, its tokenizer, and what plain use of both led to
    before anything about them was set here."""

    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plain_use: PlainUse = field(default_factory=PlainUse)

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
        """Tokens at which plain ``generate`` ends what the model says."""
        found = end_tokens(self.model.generation_config)
        # The end token in the header of a GGUF file is left behind by transformers.
        last = self.tokenizer.eos_token_id if self.checkpoint.file else None
        return found if last is None else sorted({*found, last})

    def inputs(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What one forward pass over ``ids`` ``(rows, tokens)`` takes, no token masked."""
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {**found, "decoder_input_ids": ids} if self.checkpoint.kind == SEQ2SEQ else found

    @property
    def max_tokens(self) -> int:
        """The longest input that the model takes, special tokens included."""
        config = self.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
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
    _refuse(checkpoint, device, trust_remote_code)
    with explained(checkpoint) as warned:
        model, report, repairs = _open(checkpoint, device, dtype, trust_remote_code)
    _unpack_quanto_in_python(checkpoint, model)
    _check_kind(checkpoint, model)
    tokenizer = load_tokenizer(checkpoint, trust_remote_code, warned)
    _check_whole(checkpoint, report)
    _check_ids(checkpoint, model, tokenizer)
    loaded = Loaded(checkpoint, model.eval(), tokenizer)
    with explained(checkpoint) as more:
        output = _first_pass(loaded, device)
    warned += [text for text in more if text not in warned]
    _check_finite(loaded, output)
    with explained(checkpoint) as in_use:
        failures = attempt(model, tokenizer, checkpoint.kind, loaded.device)
    _settle(checkpoint, model, tokenizer)
    return replace(loaded, plain_use=PlainUse(failures, tuple(warned), repairs, tuple(in_use)))


def _refuse(checkpoint: Checkpoint, device: str, trust_remote_code: bool) -> None:
    """Raises an EvalError for what is not opened at all."""
    check_device(checkpoint.path, checkpoint.form, device)
    source = checkpoint.base or checkpoint
    read_files(source.path, weights=False)  # refuses what is no file in the folder
    with explained(checkpoint):
        check_description(source)
    if trust_remote_code and (named := borrowed_code(source.path)):
        raise EvalError(
            f"{source.path}: auto_map names {named}, code of another repository that may change; "
            "copy the code into the folder and name it without --"
        )
    method = _quant_method(checkpoint)
    known = (PLAIN, GGUF, *AUTO_QUANTIZATION_CONFIG_MAPPING)
    # bitsandbytes goes by its number of bits there.
    if not any(name == method or name.startswith(f"{method}_") for name in known):
        # transformers would leave it aside, and take codes for numbers.
        readers = f"; {read_by(method)} may read it" if read_by(method) else ""
        raise EvalError(f"{source.path}: transformers knows no quant_method {method!r}{readers}")


def _quant_method(checkpoint: Checkpoint) -> str:
    return (checkpoint.base or checkpoint).form.partition(" ")[0]


def _is_placed(checkpoint: Checkpoint) -> bool:
    """Whether its weights go to their device while they are loaded."""
    return format_of((checkpoint.base or checkpoint).form).placed


def _open(
    checkpoint: Checkpoint, device: str, dtype: str, trust_remote_code: bool
) -> tuple[PreTrainedModel, Mapping[str, Iterable], dict[str, str]]:
    """The model, with an adapter merged into it; the loader's report of keys; its repairs."""
    source = checkpoint.base or checkpoint
    auto = AutoModelForMultimodalLM if source.multimodal else MODEL_CLASSES[checkpoint.kind]
    _check_size(source, auto, trust_remote_code)
    model, report = auto.from_pretrained(
        source.path,
        dtype=dtype,
        device_map=AUTO if device == AUTO else {"": device} if _is_placed(checkpoint) else None,
        output_loading_info=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # reported below, by name
        trust_remote_code=trust_remote_code,
        **file_in(source),
    )
    repairs = {} if source.file or source.form != PLAIN else _repairs(model, source.path)
    if checkpoint.base is not None:
        model = merged(model, checkpoint.path)
    return model, report, repairs


def _unpack_quanto_in_python(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Keeps quanto from compiling an extension, for weights or a cache that it unpacks."""
    generation = getattr(model, "generation_config", None)
    caches = getattr(generation, "cache_implementation", "") == "quantized"
    if _quant_method(checkpoint) == "quanto" or caches:
        unpack_in_python()


def _check_kind(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Raises an EvalError for a decoder whose configuration claims an encoder."""
    if checkpoint.kind == CAUSAL and getattr(model.config, "is_encoder_decoder", False):
        source = checkpoint.base or checkpoint
        raise EvalError(
            f"{source.path}: config.json says is_encoder_decoder, and {type(model).__name__} "
            "has no encoder"
        )


def _check_ids(
    checkpoint: Checkpoint, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raises an EvalError for a token that has no row in the embedding."""
    known, held = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if known >= held:
        raise EvalError(
            f"{checkpoint.path}: its tokenizer gives ids up to {known}, its embedding holds {held}"
        )


def _first_pass(loaded: Loaded, device: str) -> torch.Tensor:
    """Logits of a few tokens, from a model that is put onto its device for it."""
    if device != AUTO and not _is_placed(loaded.checkpoint):
        loaded.model.to(device)
    held = loaded.model.get_input_embeddings().num_embeddings
    with torch.inference_mode():
        # Packed weights are unpacked by the first forward.
        ids = torch.arange(min(PROBED, held), device=loaded.device)[None]
        output = loaded.model(**loaded.inputs(ids))
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


def _check_finite(loaded: Loaded, logits: torch.Tensor) -> None:
    """Raises an EvalError for weights that are not finite, or logits where weights are packed or
    wait elsewhere."""
    checkpoint, model = loaded.checkpoint, loaded.model
    whole = checkpoint.form == PLAIN and not any(p.is_meta for p in model.parameters())
    if not whole and not logits.isfinite().all():
        # Scales of a packed weight are not among its tensors for every library.
        raise EvalError(f"{checkpoint.path} predicts what is not finite")
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:  # it waits on disk or on the CPU until it is used
            continue
        if tensor.is_floating_point() and not _plain(tensor).isfinite().all():
            raise EvalError(f"{checkpoint.path}: {name} holds values that are not finite")


def _settle(
    checkpoint: Checkpoint, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Sets what scoring needs and a checkpoint may lack: padding, and greedy generation."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked wherever it stands
    if tokenizer.pad_token_id is None:
        raise EvalError(f"{checkpoint.path}: its tokenizer has no padding and no last token")
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id
    if checkpoint.kind in (CAUSAL, SEQ2SEQ):
        with explained(checkpoint):
            model.generation_config = greedy_generation(model)


def _check_whole(checkpoint: Checkpoint, report: Mapping[str, Iterable]) -> None:
    """Raises an EvalError for tensors that the file lacks or the loader does not take."""
    source = checkpoint.base or checkpoint
    if readers := read_by(source.form):
        for kind, verb in _NOT_WHOLE.items():
            if report.get(kind):
                raise EvalError(
                    f"{checkpoint.path}: transformers {transformers.__version__} does not load "
                    f"{source.form} whole, it {verb} {_some(report[kind])}; the file may be fine, "
                    f"but is not judged here: {readers} may read it"
                )
    for kind, verb in _PROBLEMS.items():
        if report.get(kind):
            raise EvalError(f"{checkpoint.path} {verb} {_some(report[kind])}")
    if report.get("error_msgs"):
        raise EvalError(f"{checkpoint.path} does not load: {report['error_msgs'][0]}")


def _repairs(model: PreTrainedModel, path: Path) -> dict[str, str]:
    """What loading did beside taking each tensor under its own name, and did not report."""
    stored, wanted = tensor_names(path), set(model.state_dict())
    patterns = [*(model._keys_to_ignore_on_load_unexpected or ()), *_OLD_BUFFERS]
    other = stored - wanted
    ignored = {name for name in other if any(re.search(p, name) for p in patterns)}
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    patterns = model._keys_to_ignore_on_load_missing or ()
    lacking = {name for name in wanted - stored - tied if any(re.search(p, name) for p in patterns)}
    found = {"ignores": ignored, "renames or converts": other - ignored, "makes up": lacking}
    return {what: _some({re.sub(r"\d+", "*", n) for n in names})
            for what, names in found.items() if names}  # fmt: skip


def load_tokenizer(
    checkpoint: Checkpoint, trust_remote_code: bool = False, warned: list[str] | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint; what is warned of meanwhile is added to ``warned``.

    Raises:
        EvalError: names the checkpoint and the loader's own reason.
    """
    if checkpoint.tokenizer is None:
        raise EvalError(f"{checkpoint.path}: no tokenizer beside {checkpoint.file}")
    read_files(checkpoint.tokenizer, weights=False)
    with explained(checkpoint) as more:
        check_description(checkpoint)  # AutoTokenizer makes an object of the configuration
        found = AutoTokenizer.from_pretrained(
            checkpoint.tokenizer, trust_remote_code=trust_remote_code
        )
    if warned is not None:
        warned += [text for text in more if text not in warned]
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


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of a kind that can be asked whether it is finite."""
    if not is_plain(tensor) and hasattr(tensor, "dequantize"):
        tensor = tensor.dequantize()
    return tensor.float() if tensor.element_size() == 1 else tensor


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds its numbers themselves, not a library's own packing of them."""
    return type(tensor) in (torch.Tensor, nn.Parameter)


def _check_size(checkpoint: Checkpoint, auto: type, trust_remote_code: bool) -> None:
    """Raises an EvalError for a configuration of a model that is out of proportion to the files of
    its weights, and would be allocated: transformers makes up what a file lacks."""
    model = None
    with suppress(Exception), torch.device("meta"):  # what is wrong here, its loader tells
        config = read_config(checkpoint, trust_remote_code)
        model = auto.from_config(config, trust_remote_code=trust_remote_code)
    if model is None:
        return
    weights = sum(parameter.numel() for parameter in model.parameters())
    buffered = sum(buffer.numel() for buffer in model.buffers())
    if weights > MOST_PER_BYTE * checkpoint.weight_bytes or buffered > MOST_BUFFERED:
        raise EvalError(
            f"{checkpoint.path}: its configuration describes {weights:,} weights and {buffered:,} "
            f"entries of buffers, its files are {checkpoint.weight_bytes:,} bytes"
        )


def _some(keys: Iterable) -> str:
    return listed(sorted(key if isinstance(key, str) else str(key[0]) for key in keys))
