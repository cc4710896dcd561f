"""Greedy continuations of prompts, up to the end of the line."""

import numpy as np
import torch
from tqdm import tqdm

from evals.data import DataSet
from evals.scoring.loading import Loaded
from evals.scoring.protocols import STOP, GenerationProtocol


@torch.inference_mode()
def generate(loaded: Loaded, data: DataSet, protocol: GenerationProtocol) -> dict[str, np.ndarray]:
    """The greedy continuation of each prompt, cut at the end of the line and stripped.

    Returns:
        ``continuations`` ``(prompts,)``.
    """
    tokenizer = loaded.tokenizer
    encoded = [tokenizer(item.prompt, verbose=False).input_ids for item in data.items]
    order = sorted(range(len(encoded)), key=lambda index: -len(encoded[index]))
    stop = tokenizer(STOP, add_special_tokens=False).input_ids
    ends = [tokenizer.eos_token_id, *(stop if len(stop) == 1 else ())]
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    texts = [""] * len(encoded)
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
            output = loaded.model.generate(
                input_ids=ids.to(loaded.device),
                attention_mask=mask.to(loaded.device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=protocol.max_new_tokens,
                eos_token_id=[end for end in ends if end is not None] or None,
                pad_token_id=pad,
            )
            for row, index in enumerate(batch):
                text = tokenizer.decode(output[row, length:], skip_special_tokens=True)
                texts[index] = text.partition(STOP)[0].strip()
            bar.update(len(batch))
    return {"continuations": np.array(texts)}
