"""Where a baseline's predictions are kept.

This module does not import torch.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BaselineFiles:
    """The files of a baseline's predictions.

    Attributes:
        rows: the table of a data set.
        head: the table of the head's weights, which all data sets share. It is not written if
            ``rows`` are logits.
        locked: returns a context that holds the lock of a name, for the head.
    """

    rows: Path
    head: Path
    locked: Callable[[str], AbstractContextManager] = nullcontext
