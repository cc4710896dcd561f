"""Running items in batches of similar length, in smaller ones when memory runs out."""

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from compression_gates.evals.errors import EvalError
from compression_gates.evals.models.device import is_out_of_memory

if TYPE_CHECKING:
    from transformers import BatchEncoding

    from compression_gates.evals.models.loading import Loaded


def in_batches(
    lengths: Sequence[int], batch_tokens: int, run: Callable[[list[int]], None], label: str,
    unit: str,
) -> None:  # fmt: skip
    """Call ``run`` on the indices of every batch, longest items first.

    A batch that does not fit into memory is split in half and run again, and all later batches are
    as small. Results of earlier batches are kept.

    Args:
        lengths: number of tokens of each item.
        batch_tokens: number of tokens of a padded batch at first.
        run: scores the items with these indices.
        label: of the progress bar and of errors.
        unit: of the progress bar, the name of an item.

    Raises:
        EvalError: a single item does not fit.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    with tqdm(total=len(order), desc=label, unit=unit, leave=False, disable=None) as bar:
        while order:
            size = max(batch_tokens // max(lengths[order[0]], 1), 1)
            batch = order[:size]
            if not _fits_into_memory(run, batch):
                if len(batch) == 1:
                    raise EvalError(f"{label}: a single {unit} does not fit into memory")
                batch_tokens = lengths[order[0]] * (len(batch) // 2)
                continue
            order = order[size:]
            bar.update(len(batch))


def _fits_into_memory(run: Callable[[list[int]], None], batch: list[int]) -> bool:
    """Run a batch, and return whether it fitted into memory."""
    try:
        run(batch)
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler, because its traceback keeps the batch's tensors alive.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def padded(loaded: "Loaded", rows: list[list[int]], side: str = "right") -> "BatchEncoding":
    """Return token ids of different lengths as one batch on the model's device.

    Args:
        loaded: the model.
        rows: token ids of each item.
        side: where padding is added, ``left`` or ``right``.

    Returns:
        ``input_ids`` and ``attention_mask`` ``(rows, longest)``.
    """
    batch = loaded.tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
    return batch.to(loaded.device)
