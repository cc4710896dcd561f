"""Prompts as the tokens that a model is given."""

from evals.checkpoint import SEQ2SEQ
from evals.data import DataSet
from evals.errors import EvalError
from evals.scoring.loading import Loaded


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
    try:
        turns = [
            loaded.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
            for prompt in prompts
        ]
    except Exception as error:  # a template is a program of the checkpoint's
        raise EvalError(
            f"{loaded.checkpoint.label}: its chat template fails: {type(error).__name__}: {error}"
        ) from error
    # The template has written the special tokens itself.
    return loaded.tokenizer(turns, add_special_tokens=False, verbose=False).input_ids
