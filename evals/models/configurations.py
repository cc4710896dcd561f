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
from compression_gates.evals.models.warned import explained

MODEL_CLASSES = {
    CAUSAL: AutoModelForCausalLM,
    CLASSIFIER: AutoModelForSequenceClassification,
    EXTRACTIVE: AutoModelForQuestionAnswering,
    SEQ2SEQ: AutoModelForSeq2SeqLM,
}
"""The class of transformers that loads each kind of model."""
_DECODED = ("eos_token_id", "decoder_start_token_id", "forced_bos_token_id")
"""Tokens that begin and end an answer."""


def load_config(checkpoint: Checkpoint, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration of a checkpoint, or of what an adapter adapts, with the defaults of its
    class.

    Raises:
        EvalError: names the checkpoint and the loader's own reason.
    """
    source = checkpoint.base or checkpoint
    with explained(source):
        check_description(source)
        return read_config(source, trust_remote_code)


def read_config(source: Checkpoint, trust_remote_code: bool) -> PretrainedConfig:
    """The configuration of what is no adapter; what is wrong with it is raised as it is."""
    return AutoConfig.from_pretrained(
        source.path, trust_remote_code=trust_remote_code, **file_in(source)
    )


def file_in(source: Checkpoint) -> dict[str, str]:
    """The argument by which loaders take a GGUF file of a folder."""
    return {"gguf_file": source.file} if source.file else {}


def load_generation_config(
    checkpoint: Checkpoint, trust_remote_code: bool = False
) -> GenerationConfig:
    """What plain ``generate`` of a checkpoint, or of what an adapter adapts, goes by: its
    ``generation_config.json``, or where there is none that transformers can read, and of a GGUF
    file, what the configuration says of generation.

    Raises:
        EvalError: names the checkpoint and the loader's own reason.
    """
    source = checkpoint.base or checkpoint
    if source.file:
        config = load_config(source, trust_remote_code)
        with explained(source):
            return GenerationConfig.from_model_config(config.get_text_config())
    with explained(source):
        try:
            return GenerationConfig.from_pretrained(source.path)
        except OSError:
            return GenerationConfig.from_pretrained(
                source.path, config_file_name="config.json", _from_model_config=True
            )


def end_tokens(asked: GenerationConfig) -> list[int]:
    """Tokens that end what a model says, in order; none where it goes on to its longest.

    Raises:
        EvalError: what stands there are no tokens.
    """
    ends = [] if asked.eos_token_id is None else asked.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if not all(type(end) is int for end in ends):
        raise EvalError(f"generation_config.json: eos_token_id = {ends!r:.80} are no tokens")
    return sorted(set(ends))


def greedy_generation(model: PreTrainedModel) -> GenerationConfig:
    """Greedy for everyone: penalties that a checkpoint brings are not compression. The tokens that
    begin and end an answer stay, and so does a quantized cache, which is compression."""
    asked = model.generation_config
    kept = {name: getattr(asked, name) for name in _DECODED if getattr(asked, name) is not None}
    for name, value in kept.items():
        for token in value if isinstance(value, list) else [value]:
            if (
                not isinstance(token, int)
                or not 0 <= token < model.config.get_text_config().vocab_size
            ):
                raise EvalError(f"generation_config.json: {name} = {value!r} is no token")
    if asked.cache_implementation == "quantized":
        settings = asked.cache_config or {}
        # Made once here, so that a package that it lacks is missed now.
        QuantizedCache(**{"backend": "quanto", "config": model.config, **settings})
        kept |= {"cache_implementation": "quantized", "cache_config": settings}
    return GenerationConfig(**kept)
