"""Greedy continuations of prompts, up to the end of the line."""

from collections.abc import Mapping

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from compression_gates.evals.checkpoints.checkpoint import SEQ2SEQ
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.data.tables import extracted
from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.loading import Loaded
from compression_gates.evals.scoring.batches import in_batches
from compression_gates.evals.scoring.prompts import encode_prompts
from compression_gates.evals.scoring.protocols import GenerationProtocol


class _Finite(LogitsProcessor):
    """Changes nothing, and remembers the rows whose logits were ever not numbers."""

    def __init__(self, rows: int):
        self.rows = np.ones(rows, bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.rows &= ~scores.isnan().any(-1).cpu().numpy()
        return scores


@torch.inference_mode()
def greedy(
    loaded: Loaded, prompts: list[list[int]], max_new_tokens: int, until: Mapping[str, object]
) -> tuple[torch.Tensor, np.ndarray]:
    """The greedy continuations of a batch of encoded prompts.

    Args:
        loaded: a model that generates.
        prompts: tokens of each.
        max_new_tokens: of a continuation.
        until: what ends one, as ``generate`` of transformers takes it.

    Returns:
        New tokens ``(prompts, new)``, at most ``max_new_tokens`` and padded behind their ends; and
        ``(prompts,)`` whether all logits behind them were numbers.
    """
    tokenizer, decoder = loaded.tokenizer, loaded.checkpoint.kind == SEQ2SEQ
    # On the left of what continues, on the right of what an encoder reads.
    padded = tokenizer.pad(
        {"input_ids": prompts}, padding_side="right" if decoder else "left", return_tensors="pt"
    ).to(loaded.device)
    watch = _Finite(len(prompts))
    output = loaded.model.generate(
        **padded,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        logits_processor=LogitsProcessorList([watch]),
        **until,
    )
    return output[:, 1 if decoder else padded["input_ids"].shape[1] :], watch.rows


def generate(loaded: Loaded, data: DataSet, protocol: GenerationProtocol) -> dict[str, np.ndarray]:
    """The greedy continuation of each prompt, cut before the protocol's stop and stripped.

    A chat model gets the prompt as a user's turn, and its own turn is what it says.

    Returns:
        ``continuations`` and ``finite`` ``(prompts,)``: the texts, and whether all logits behind
        them were numbers.

    Raises:
        EvalError: a prompt that leaves no room for its answer.
    """
    tokenizer = loaded.tokenizer
    encoded = encode_prompts(loaded, data, protocol.chat)
    stop = tokenizer(protocol.stop, add_special_tokens=False).input_ids if protocol.stop else []
    if not stop:
        until = {"eos_token_id": loaded.eos_token_ids or None}
    # A token of its own is cheaper to wait for than a piece of text.
    elif len(stop) == 1 and tokenizer.decode(stop) == protocol.stop:
        until = {"eos_token_id": [*loaded.eos_token_ids, *stop]}
    else:
        until = {"eos_token_id": loaded.eos_token_ids or None, "stop_strings": [protocol.stop],
                 "tokenizer": tokenizer}  # fmt: skip
    decoder = loaded.checkpoint.kind == SEQ2SEQ
    longest = max(map(len, encoded)) + (0 if decoder else protocol.max_new_tokens)
    if longest > loaded.max_tokens:
        raise EvalError(
            f"data set {data.name}: a prompt and its answer take {longest} tokens, "
            f"{loaded.checkpoint.label} {loaded.max_tokens} at most"
        )
    texts, finite = [""] * len(encoded), np.ones(len(encoded), bool)

    def run(batch: list[int]) -> None:
        rows = [encoded[index] for index in batch]
        said, finite[batch] = greedy(loaded, rows, protocol.max_new_tokens, until)
        for index, own in zip(batch, said, strict=True):
            text = tokenizer.decode(own, skip_special_tokens=True)
            text = (text.partition(protocol.stop)[0] if protocol.stop else text).strip()
            texts[index] = extracted(text, protocol.extract)

    label = f"{loaded.checkpoint.label}: {data.name}"
    lengths = [len(ids) + protocol.max_new_tokens for ids in encoded]
    in_batches(lengths, protocol.batch_tokens, run, label, "prompt")
    return {"continuations": np.array(texts), "finite": finite}
