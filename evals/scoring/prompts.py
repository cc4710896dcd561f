"""Prompts as the tokens that a model is given."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import SEQ2SEQ
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.errors import EvalError
from compression_gates.evals.guard import guarded
from compression_gates.evals.models.loading import Loaded

RENDER_SECONDS, RENDER_MEMORY = 10, 1 << 30
"""Limits of one rendering of a chat template."""
MOST_RENDERED = 1 << 16
"""Characters that a template may write around its messages."""


def encode_prompts(loaded: Loaded, data: DataSet, chat: bool) -> list[list[int]]:
    """Tokens of each prompt; an encoder that takes fewer reads the first of them.

    Raises:
        EvalError: a chat that the tokenizer has no template for.
    """
    prompts = [item.prompt for item in data.items]
    if loaded.checkpoint.kind == SEQ2SEQ:
        limit = min(loaded.tokenizer.model_max_length, loaded.max_tokens)
        return loaded.tokenizer(prompts, truncation=True, max_length=limit).input_ids
    if not chat:
        return loaded.tokenizer(prompts, verbose=False).input_ids
    if not loaded.tokenizer.chat_template:
        raise EvalError(
            f"data set {data.name} is a chat, and {loaded.checkpoint.label} has no chat template"
        )
    what = f"{loaded.checkpoint.label}: its chat template fails"
    turns = [
        rendered(loaded.tokenizer, [{"role": "user", "content": prompt}], what)
        for prompt in prompts
    ]
    # The template has written the special tokens itself.
    return loaded.tokenizer(turns, add_special_tokens=False, verbose=False).input_ids


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, object]],
    what: str,
    add_generation_prompt: bool = True,
    **options: object,
) -> str:
    """A chat as a template writes it, in the sandbox of transformers. A template is a program that
    the checkpoint brings, so it runs under limits of time, memory and output.

    Args:
        what: begins the line that says how the template fails.
        options: further ones of ``apply_chat_template``: the template, where it is not the one
            that transformers takes, tools, and variables of the template.

    Raises:
        EvalError: the template fails, or it writes nothing or too much.
    """
    messages = [dict(message) for message in messages]
    with guarded(what, RENDER_SECONDS, RENDER_MEMORY):
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False, **options
        )
        most = MOST_RENDERED + 2 * len(str([messages, options]))
        if not text.strip():
            raise EvalError(f"{what}: it writes nothing")
        if len(text) > most:
            raise EvalError(f"{what}: it writes {len(text):,} characters, {most:,} at most")
    return text
