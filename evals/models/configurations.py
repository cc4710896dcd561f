"""Configurations and generation settings of checkpoints, as transformers reads them."""

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    QuantizedCache,
)

from compression_gates.evals.checkpoints.checkpoint import (
    CAUSAL,
    CLASSIFIER,
    EXTRACTIVE,
    SEQ2SEQ,
    Checkpoint,
)
from compression_gates.evals.checkpoints.description import check_description
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.library_output import load_guard

MODEL_CLASSES = {
    CAUSAL: AutoModelForCausalLM,
    CLASSIFIER: AutoModelForSequenceClassification,
    EXTRACTIVE: AutoModelForQuestionAnswering,
    SEQ2SEQ: AutoModelForSeq2SeqLM,
}
"""The class of transformers that loads each kind of model."""
_DELIMITERS = ("eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
"""Settings that name the tokens that begin and end an answer."""


def load_config(checkpoint: Checkpoint, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the configuration of a checkpoint, or of an adapter's base, with class defaults.

    Raises:
        EvalError: the configuration is refused, or transformers does not load it.
    """
    source = checkpoint.source
    with load_guard(source):
        check_description(source)
        return read_config(source, trust_remote_code)


def read_config(source: Checkpoint, trust_remote_code: bool) -> PretrainedConfig:
    """Return the configuration of a checkpoint that is no adapter; exceptions are not converted."""
    return AutoConfig.from_pretrained(
        source.path, trust_remote_code=trust_remote_code, **file_in(source)
    )


def file_in(source: Checkpoint) -> dict[str, str]:
    """Return the loaders' keyword argument that selects a GGUF file; empty for other formats."""
    return {"gguf_file": source.file} if source.file else {}


def load_generation_config(
    checkpoint: Checkpoint, trust_remote_code: bool = False
) -> GenerationConfig:
    """Return the generation settings that plain ``generate`` uses, of an adapter those of its base.

    They come from ``generation_config.json``. If transformers cannot read that file, or for a GGUF
    file, they come from the configuration.

    Raises:
        EvalError: transformers does not load the configuration.
    """
    source = checkpoint.source
    if source.file:
        config = load_config(source, trust_remote_code)
        with load_guard(source):
            return GenerationConfig.from_model_config(config.get_text_config())
    with load_guard(source):
        try:
            return GenerationConfig.from_pretrained(source.path)
        except OSError:
            return GenerationConfig.from_pretrained(
                source.path, config_file_name="config.json", _from_model_config=True
            )


def end_tokens(config: GenerationConfig) -> list[int]:
    """Return the sorted ids of the tokens that end generation; empty if there are none.

    Raises:
        EvalError: ``eos_token_id`` is neither an integer nor a list of integers.
    """
    ids = [] if config.eos_token_id is None else config.eos_token_id
    ids = ids if isinstance(ids, list) else [ids]
    if not all(type(token) is int for token in ids):
        raise EvalError(f"generation_config.json: eos_token_id = {ids!r:.80} is not a token id")
    return sorted(set(ids))


def greedy_generation(model: PreTrainedModel) -> GenerationConfig:
    """Return settings for greedy decoding.

    Sampling and penalties are dropped, because they are not part of compression. The tokens that
    begin and end an answer are kept, and so is a quantized cache, which is a form of compression.

    Raises:
        EvalError: a token id is not in the vocabulary.
    """
    stored = model.generation_config
    kept = {
        name: getattr(stored, name) for name in _DELIMITERS if getattr(stored, name) is not None
    }
    vocabulary = model.config.get_text_config().vocab_size
    for name, value in kept.items():
        for token in value if isinstance(value, list) else [value]:
            if not isinstance(token, int) or not 0 <= token < vocabulary:
                raise EvalError(
                    f"generation_config.json: {name} = {value!r} is not in the vocabulary of "
                    f"{vocabulary:,} tokens"
                )
    if stored.cache_implementation == "quantized":
        settings = stored.cache_config or {}
        # Construct the cache once, so that a missing package is reported when the model is loaded.
        QuantizedCache(**{"backend": "quanto", "config": model.config, **settings})
        kept |= {"cache_implementation": "quantized", "cache_config": settings}
    return GenerationConfig(**kept)
