"""A few tokens that are run through a model to see which numbers reach which."""

import zlib

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.errors import RecipeError
from compression.watching import Batch

TEXTS, TOKENS = 2, 16
"""With a ReLU, a channel that is off for every token of a random probe is one in 2**32."""


def probe_batch(model: PreTrainedModel) -> Batch:
    """Random tokens, the second text padded, with the decoder's where there is one.

    Raises:
        RecipeError: the model takes no tokens.
    """
    table = model.get_input_embeddings()
    if model.main_input_name != "input_ids" or not hasattr(table, "num_embeddings"):
        raise RecipeError(
            f"{type(model).__name__} takes no tokens; only models of text get smaller"
        )
    longest = getattr(model.config, "max_position_embeddings", None) or TOKENS + 2
    length = min(TOKENS, longest - 2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(table.num_embeddings, (TEXTS, length), generator=generator)
    padding = model.config.get_text_config().pad_token_id
    if padding is not None:
        ids[ids == padding] = (padding + 1) % table.num_embeddings
    mask = torch.ones_like(ids)
    mask[1, -(length // 4) :] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids.flip(1)
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def random_outputs(name: str, call: int, like: Tensor, width: int) -> Tensor:
    """``(..., width)`` standard normal numbers, the same ones for the same layer and call.

    Put in place of what a layer gives, they wake what is next to dead in the weights: no ReLU is
    off for all tokens, no softmax is nearly uniform.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {call}".encode()))
    drawn = torch.randn(*like.shape[:-1], width, generator=generator)
    return drawn.to(like.device, like.dtype)
