"""Runs items in batches of like length, in smaller ones where memory is short."""

import gc
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from compression_gates.evals.errors import EvalError

_NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory")


def in_batches(
    lengths: Sequence[int], batch_tokens: int, run: Callable[[list[int]], None], label: str,
    unit: str,
) -> None:  # fmt: skip
    """Calls ``run`` on the indices of every batch, longest items first.

    A batch that does not fit into memory is tried again at half its size, and so are all after
    it; what was run before stays.

    Args:
        lengths: tokens of each item.
        batch_tokens: of a padded batch, at first.
        run: scores the items of these indices.
        label, unit: of the progress bar.

    Raises:
        EvalError: a single item does not fit.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    with tqdm(total=len(order), desc=label, unit=unit, leave=False, disable=None) as bar:
        while order:
            size = max(batch_tokens // max(lengths[order[0]], 1), 1)
            batch = order[:size]
            if not _runs(run, batch):
                if len(batch) == 1:
                    raise EvalError(f"{label}: a single {unit} does not fit into memory")
                batch_tokens = lengths[order[0]] * (len(batch) // 2)
                continue
            order = order[size:]
            bar.update(len(batch))


def _runs(run: Callable[[list[int]], None], batch: list[int]) -> bool:
    """Whether a batch fits into memory, and has been run."""
    try:
        run(batch)
        return True
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or any(w in str(error) for w in _NO_ROOM)):
            raise
    # Outside of the handler, whose traceback would keep the batch's tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
