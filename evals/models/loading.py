"""Load a checkpoint completely, or report why it cannot be loaded."""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.quantization_config import GgufConfig

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
)
from compression_gates.evals.checkpoints.plain_use import PlainUse, attempt
from compression_gates.evals.checkpoints.tensors import tensor_names
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.configurations import (
    MODEL_CLASSES,
    end_tokens,
    file_in,
    greedy_generation,
)
from compression_gates.evals.models.device import AUTO, CPU
from compression_gates.evals.models.library_output import load_guard
from compression_gates.evals.models.loading_checks import (
    check_complete,
    check_finite,
    check_ids,
    check_kind,
    check_size,
    first_names,
)
from compression_gates.evals.models.quanto import unpack_in_python

_NO_LIMIT = 1 << 30
PROBED = 16
"""Number of tokens of the trial forward pass on loading."""
_OLD_BUFFERS = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")
"""Tensors saved by older versions that transformers ignores for every model."""


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode on its device, and its tokenizer.

    Attributes:
        plain_use: the result of using both with their own settings, before :func:`load` changed
            some of them for scoring.
    """

    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plain_use: PlainUse = field(default_factory=PlainUse)

    @property
    def device(self) -> torch.device:
        """The device of the model's inputs."""
        embedding = self.model.get_input_embeddings()
        hook = getattr(embedding, "_hf_hook", None)
        # Offloaded weights are on another device than the computation.
        device = getattr(hook, "execution_device", None)
        return embedding.weight.device if device is None else torch.device(device)

    @property
    def decoder_start_token_id(self) -> int:
        """The first token of the decoder of an encoder-decoder."""
        config = self.model.config
        token = getattr(config, "decoder_start_token_id", None)
        return config.pad_token_id if token is None else token

    @property
    def eos_token_ids(self) -> list[int]:
        """Sorted ids of the tokens at which plain ``generate`` stops."""
        ids = end_tokens(self.model.generation_config)
        # transformers does not read the end token in the header of a GGUF file.
        last = self.tokenizer.eos_token_id if self.checkpoint.file else None
        return ids if last is None else sorted({*ids, last})

    def inputs(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the inputs of a forward pass over ``ids`` ``(rows, tokens)``, none masked."""
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {**inputs, "decoder_input_ids": ids} if self.checkpoint.kind == SEQ2SEQ else inputs

    @property
    def max_tokens(self) -> int:
        """Maximum length of an input in tokens, including special tokens."""
        config = self.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                # Positions of RoBERTa begin after its padding index.
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
                limit = min(limit, module.num_embeddings - offset)
        return limit


def load(
    checkpoint: Checkpoint,
    device: str = CPU,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> Loaded:
    """Load the model and the tokenizer of a checkpoint.

    transformers initializes missing weights randomly and only logs it. Here every missing,
    unexpected or mismatched tensor is an error.

    Args:
        checkpoint: the checkpoint to load.
        device: ``cpu``, ``cuda:N`` or ``auto``.
        dtype: dtype of the weights in memory; ``auto`` is the dtype that the checkpoint names.
        trust_remote_code: whether code in the checkpoint may run.

    Raises:
        EvalError: names the checkpoint, and the first faulty tensors or the loader's error.
    """
    _check_before_loading(checkpoint, device, trust_remote_code)
    warned: list[str] = []
    usage_warnings: list[str] = []
    with load_guard(checkpoint, warned):
        model, report, repairs = _open(checkpoint, device, dtype, trust_remote_code)
    _unpack_quanto_in_python(checkpoint, model)
    check_kind(checkpoint, model)
    tokenizer = load_tokenizer(checkpoint, trust_remote_code, warned)
    check_complete(checkpoint, report)
    check_ids(checkpoint, model, tokenizer)
    loaded = Loaded(checkpoint, model.eval(), tokenizer)
    with load_guard(checkpoint, warned):
        output = _first_pass(loaded, device)
    check_finite(checkpoint, model, output)
    with load_guard(checkpoint, usage_warnings):
        failures = attempt(model, tokenizer, checkpoint.kind, loaded.device)
    _prepare_for_scoring(checkpoint, model, tokenizer)
    plain_use = PlainUse(failures, tuple(warned), repairs, tuple(usage_warnings))
    return replace(loaded, plain_use=plain_use)


def _check_before_loading(checkpoint: Checkpoint, device: str, trust_remote_code: bool) -> None:
    """Raise an EvalError for a checkpoint that no library should open."""
    check_device(checkpoint.path, checkpoint.form, device)
    source = checkpoint.source
    read_files(source.path, weights=False)
    with load_guard(checkpoint):
        check_description(source)
    if trust_remote_code and (reference := borrowed_code(source.path)):
        raise EvalError(
            f"{source.path}: auto_map names {reference}, which is code of another repository and "
            "may change; copy the code into the folder and name it without --"
        )
    method = _quant_method(checkpoint)
    supported = (PLAIN, GGUF, *AUTO_QUANTIZATION_CONFIG_MAPPING)
    # The mapping has bitsandbytes_4bit and bitsandbytes_8bit.
    if not any(name == method or name.startswith(f"{method}_") for name in supported):
        # transformers would ignore the method and interpret quantized codes as weights.
        readers = format_of(method).readers
        readers = f"; {readers} may read it" if readers else ""
        raise EvalError(
            f"{source.path}: transformers does not support quant_method {method!r}{readers}"
        )


def _quant_method(checkpoint: Checkpoint) -> str:
    return checkpoint.source.form.partition(" ")[0]


def _is_placed(checkpoint: Checkpoint) -> bool:
    """Return whether the weights are placed on their device while they are loaded."""
    return format_of(checkpoint.source.form).placed


def _open(
    checkpoint: Checkpoint, device: str, dtype: str, trust_remote_code: bool
) -> tuple[PreTrainedModel, Mapping[str, Iterable], dict[str, str]]:
    """Return the model with any adapter merged, the loader's report of keys, and its repairs."""
    source = checkpoint.source
    auto = AutoModelForMultimodalLM if source.multimodal else MODEL_CLASSES[checkpoint.kind]
    check_size(source, auto, trust_remote_code)
    model, report = auto.from_pretrained(
        source.path,
        dtype=dtype,
        device_map=AUTO if device == AUTO else {"": device} if _is_placed(checkpoint) else None,
        output_loading_info=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # _check_complete reports them by name
        trust_remote_code=trust_remote_code,
        **file_in(source),
        # By default, transformers keeps the codes of a GGUF file, and downloads a kernel for them,
        # where the package for kernels is installed.
        **({"quantization_config": GgufConfig(dequantize=True)} if source.file else {}),
    )
    repairs = {} if source.file or source.form != PLAIN else _repairs(model, source.path)
    if checkpoint.base is not None:
        model = merged(model, checkpoint.path)
    return model, report, repairs


def _unpack_quanto_in_python(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Prevent quanto from compiling its extension, if it unpacks the weights or the cache."""
    generation = getattr(model, "generation_config", None)
    has_quantized_cache = getattr(generation, "cache_implementation", "") == "quantized"
    if _quant_method(checkpoint) == "quanto" or has_quantized_cache:
        unpack_in_python()


def _first_pass(loaded: Loaded, device: str) -> torch.Tensor:
    """Move the model to its device, and return the logits of a few tokens.

    Packed weights are unpacked by the first forward pass.
    """
    if device != AUTO and not _is_placed(loaded.checkpoint):
        loaded.model.to(device)
    rows = loaded.model.get_input_embeddings().num_embeddings
    with torch.inference_mode():
        ids = torch.arange(min(PROBED, rows), device=loaded.device)[None]
        output = loaded.model(**loaded.inputs(ids))
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


def _prepare_for_scoring(
    checkpoint: Checkpoint, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Set a padding token if there is none, and greedy generation."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # scorers mask padding, so any token will do
    if tokenizer.pad_token_id is None:
        raise EvalError(
            f"{checkpoint.path}: its tokenizer has neither a padding token nor an end token"
        )
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id
    if checkpoint.kind in (CAUSAL, SEQ2SEQ):
        with load_guard(checkpoint):
            model.generation_config = greedy_generation(model)


def _repairs(model: PreTrainedModel, path: Path) -> dict[str, str]:
    """Return the tensors that loading ignored, renamed or initialized without reporting it.

    Returns:
        Names of tensors, with digits replaced by ``*``, by a verb that describes the repair.
    """
    stored, expected = tensor_names(path), set(model.state_dict())
    patterns = [*(model._keys_to_ignore_on_load_unexpected or ()), *_OLD_BUFFERS]
    extra = stored - expected
    ignored = {name for name in extra if any(re.search(p, name) for p in patterns)}
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    patterns = model._keys_to_ignore_on_load_missing or ()
    missing = expected - stored - tied
    initialized = {name for name in missing if any(re.search(p, name) for p in patterns)}
    repairs = {
        "ignores": ignored, "renames or converts": extra - ignored, "initializes": initialized,
    }  # fmt: skip
    return {
        verb: first_names({re.sub(r"\d+", "*", name) for name in names})
        for verb, names in repairs.items()
        if names
    }


def load_tokenizer(
    checkpoint: Checkpoint, trust_remote_code: bool = False, warned: list[str] | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint, and add new warnings to ``warned``.

    Raises:
        EvalError: the checkpoint has no tokenizer, or transformers does not load it.
    """
    if checkpoint.tokenizer is None:
        raise EvalError(f"{checkpoint.path}: no tokenizer beside {checkpoint.file}")
    read_files(checkpoint.tokenizer, weights=False)
    with load_guard(checkpoint, warned):
        check_description(checkpoint)  # AutoTokenizer also loads the configuration
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.tokenizer, trust_remote_code=trust_remote_code
        )
    limit = tokenizer.model_max_length
    if not isinstance(limit, int | float) or limit < 1:
        raise EvalError(f"{checkpoint.tokenizer}: model_max_length = {limit!r} is not a length")
    return tokenizer


def merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Return a model with a LoRA adapter merged into its weights.

    Raises:
        EvalError: tensors of the adapter are missing, or the model has no place for them.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mismatched keys are errors below
        adapted = PeftModel.from_pretrained(model, adapter, use_safetensors=True)
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as stream:
        stored = set(stream.keys())
    expected = set(get_peft_model_state_dict(adapted))
    for keys, verb in ((expected - stored, "lacks"), (stored - expected, "has unexpected")):
        if keys:
            raise EvalError(f"{adapter} {verb} {first_names(keys)}")
    return adapted.merge_and_unload(safe_merge=True)
