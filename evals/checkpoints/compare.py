"""Holds a candidate's checkpoint beside its baseline's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.findings import CheckpointComparison
from compression_gates.evals.checkpoints.lengths import Lengths, lengths_of
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.models.loading import load_tokenizer
from compression_gates.evals.models.warned import quiet


@dataclass(frozen=True)
class Sides:
    """A baseline and a candidate, and the data that they will be scored on.

    Attributes:
        data: all data sets of the run.
        trust_remote_code: whether code that a checkpoint brings may run.
    """

    baseline: Checkpoint
    candidate: Checkpoint
    data: Sequence[DataSet]
    trust_remote_code: bool = False

    @property
    def share_tokenizer(self) -> bool:
        """Whether the candidate brings no tokenizer, and so is given the baseline's."""
        return self.candidate.tokenizer == self.baseline.tokenizer

    @cached_property
    def tokenizers(self) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
        """Of the baseline and of the candidate."""
        sides = self.baseline, self.candidate
        one, two = (load_tokenizer(side, self.trust_remote_code) for side in sides)
        return one, two

    @cached_property
    def lengths(self) -> Lengths:
        """Of the data, in tokens of the baseline."""
        return lengths_of(self.data, self.tokenizers[0], self.baseline)


def compare(sides: Sides) -> CheckpointComparison:
    """Everything that is compared before scoring; libraries are kept quiet meanwhile.

    Raises:
        EvalError: a side cannot be read.
    """
    with quiet():
        return CheckpointComparison.joined(comparer(sides) for comparer in _comparers())


def _comparers() -> list[Callable[[Sides], CheckpointComparison]]:
    """In the order in which the report tells what they find."""
    from compression_gates.evals.checkpoints import (
        added_tokens,
        chat,
        configuration,
        generation_defaults,
        gguf_header,
        tokenizer_files,
        tokens,
        vocabulary_entries,
        weights,
    )

    return [
        weights.compare,
        tokens.compare,
        chat.compare,
        added_tokens.compare,
        vocabulary_entries.compare,
        tokenizer_files.compare,
        configuration.compare,
        generation_defaults.compare,
        gguf_header.compare,
    ]
