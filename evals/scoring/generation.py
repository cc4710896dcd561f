"""Greedy continuations of prompts, up to the end of the line."""

import numpy as np
import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from evals.data import DataSet
from evals.errors import EvalError
from evals.scoring.loading import Loaded
from evals.scoring.protocols import STOP, GenerationProtocol


class _Finite(LogitsProcessor):
    """Changes nothing, and remembers the rows whose logits were ever not numbers."""

    def __init__(self, rows: int):
        self.rows = np.ones(rows, bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.rows &= ~scores.isnan().any(-1).cpu().numpy()
        return scores


@torch.inference_mode()
def generate(loaded: Loaded, data: DataSet, protocol: GenerationProtocol) -> dict[str, np.ndarray]:
    """The greedy continuation of each prompt, cut at the end of the line and stripped.

    Returns:
        ``continuations`` and ``finite`` ``(prompts,)``: the texts, and whether all logits behind
        them were numbers.

    Raises:
        EvalError: a prompt that leaves no room for its answer.
    """
    tokenizer = loaded.tokenizer
    encoded = tokenizer([item.prompt for item in data.items], verbose=False).input_ids
    order = sorted(range(len(encoded)), key=lambda index: -len(encoded[index]))
    stop = tokenizer(STOP, add_special_tokens=False).input_ids
    ends = [tokenizer.eos_token_id, *(stop if len(stop) == 1 else ())]
    pad = tokenizer.pad_token_id
    longest = len(encoded[order[0]]) + protocol.max_new_tokens
    if longest > loaded.max_tokens:
        raise EvalError(
            f"data set {data.name}: a prompt and its answer take {longest} tokens, "
            f"{loaded.checkpoint.label} {loaded.max_tokens} at most"
        )
    texts, finite = [""] * len(encoded), np.ones(len(encoded), bool)
    label = f"{loaded.checkpoint.label}: {data.name}"
    with tqdm(total=len(order), desc=label, unit="prompt", leave=False, disable=None) as bar:
        while order:
            length = len(encoded[order[0]])
            size = max(protocol.batch_tokens // (length + protocol.max_new_tokens), 1)
            batch, order = order[:size], order[size:]
            ids = torch.full((len(batch), length), pad)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(batch):
                ids[row, length - len(encoded[index]) :] = torch.tensor(encoded[index])
                mask[row, length - len(encoded[index]) :] = 1
            watch = _Finite(len(batch))
            output = loaded.model.generate(
                input_ids=ids.to(loaded.device),
                attention_mask=mask.to(loaded.device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=protocol.max_new_tokens,
                eos_token_id=[end for end in ends if end is not None] or None,
                pad_token_id=pad,
                logits_processor=LogitsProcessorList([watch]),
            )
            finite[batch] = watch.rows
            for row, index in enumerate(batch):
                text = tokenizer.decode(output[row, length:], skip_special_tokens=True)
                texts[index] = text.partition(STOP)[0].strip()
            bar.update(len(batch))
    return {"continuations": np.array(texts), "finite": finite}
