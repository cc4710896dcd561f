"""Encoding of prompts, with or without the model's chat template."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import SEQ2SEQ
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.guard import guarded
from compression_gates.evals.models.loading import Loaded

RENDER_SECONDS, RENDER_MEMORY = 10, 1 << 30
"""Limits on the time (in seconds) and memory (in bytes) of rendering a conversation."""
MAX_TEMPLATE_CHARACTERS = 1 << 16
"""Largest number of characters that a template may add to its messages."""


def encode_prompts(loaded: Loaded, data: DataSet, chat: bool) -> list[list[int]]:
    """Return the token ids of each prompt.

    The prompts of an encoder-decoder are truncated to the length of its encoder.

    Args:
        loaded: the model.
        data: prompts.
        chat: whether each prompt is sent as a user's turn through the model's chat template.
            Encoder-decoders have none.

    Raises:
        EvalError: the tokenizer has no chat template, or the template fails.
    """
    prompts = [item.prompt for item in data.items]
    if loaded.checkpoint.kind == SEQ2SEQ:
        limit = min(loaded.tokenizer.model_max_length, loaded.max_tokens)
        return loaded.tokenizer(prompts, truncation=True, max_length=limit).input_ids
    if not chat:
        return loaded.tokenizer(prompts, verbose=False).input_ids
    if not loaded.tokenizer.chat_template:
        raise EvalError(
            f"data set {data.name} sets chat = true, but {loaded.checkpoint.label} has no chat "
            "template"
        )
    label = f"{loaded.checkpoint.label}: its chat template fails"
    turns = [
        render_chat(loaded.tokenizer, [{"role": "user", "content": prompt}], label)
        for prompt in prompts
    ]
    # The template has already written the special tokens.
    return loaded.tokenizer(turns, add_special_tokens=False, verbose=False).input_ids


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, object]],
    label: str,
    add_generation_prompt: bool = True,
    **options: object,
) -> str:
    """Render a conversation with a chat template, in the sandbox of transformers.

    A template is a program that comes with the checkpoint, so it runs with limits on time, memory
    and output.

    Args:
        tokenizer: the tokenizer with the template.
        messages: the turns of the conversation.
        label: beginning of an error message.
        add_generation_prompt: whether the beginning of the assistant's turn is added.
        options: further arguments of ``apply_chat_template``: a template other than the
            tokenizer's default, tools, and variables of the template.

    Raises:
        EvalError: the template fails, or its output is empty or too long.
    """
    messages = [dict(message) for message in messages]
    with guarded(label, RENDER_SECONDS, RENDER_MEMORY):
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False, **options
        )
        limit = MAX_TEMPLATE_CHARACTERS + 2 * len(str([messages, options]))
        if not text.strip():
            raise EvalError(f"{label}: it writes nothing")
        if len(text) > limit:
            raise EvalError(
                f"{label}: it writes {len(text):,} characters, more than the limit of {limit:,}"
            )
    return text
