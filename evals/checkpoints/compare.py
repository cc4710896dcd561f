"""Comparison of the files of two checkpoints, before scoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import Checkpoint
from compression_gates.evals.checkpoints.findings import CheckpointComparison
from compression_gates.evals.checkpoints.lengths import Lengths, lengths_of
from compression_gates.evals.data.items import DataSet
from compression_gates.evals.models.configurations import load_config
from compression_gates.evals.models.library_output import quiet
from compression_gates.evals.models.loading import load_tokenizer


@dataclass(frozen=True)
class Sides:
    """A baseline, a candidate, and the data that they will be scored on.

    Attributes:
        data: all data sets of the run.
        trust_remote_code: whether code in a checkpoint may run.
    """

    baseline: Checkpoint
    candidate: Checkpoint
    data: Sequence[DataSet]
    trust_remote_code: bool = False

    @property
    def share_tokenizer(self) -> bool:
        """Whether the candidate has no tokenizer, and uses the baseline's."""
        return self.candidate.tokenizer == self.baseline.tokenizer

    @cached_property
    def tokenizers(self) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
        """The tokenizers of the baseline and of the candidate."""
        return (
            load_tokenizer(self.baseline, self.trust_remote_code),
            load_tokenizer(self.candidate, self.trust_remote_code),
        )

    @cached_property
    def baseline_config(self) -> PretrainedConfig:
        """The configuration of the baseline, with class defaults, which must not be changed.

        It is shared because reading it can take seconds.
        """
        return load_config(self.baseline, self.trust_remote_code)

    @cached_property
    def candidate_config(self) -> PretrainedConfig:
        """The configuration of the candidate, likewise."""
        return load_config(self.candidate, self.trust_remote_code)

    @cached_property
    def lengths(self) -> Lengths:
        """Lengths of the data in tokens of the baseline."""
        return lengths_of(self.data, self.tokenizers[0], self.baseline)


def compare(sides: Sides) -> CheckpointComparison:
    """Run all comparisons of files, and discard the output of libraries.

    Raises:
        EvalError: a checkpoint cannot be read.
    """
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

    # The report lists findings in this order.
    modules = (
        weights, tokens, chat, added_tokens, vocabulary_entries, tokenizer_files, configuration,
        generation_defaults, gguf_header,
    )  # fmt: skip
    with quiet():
        return CheckpointComparison.joined(module.compare(sides) for module in modules)
