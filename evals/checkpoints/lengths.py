"""Lengths of the scored sequences. Differences that need longer sequences affect no score."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.chat import Chat, render
from compression_gates.evals.checkpoints.checkpoint import CAUSAL, Checkpoint
from compression_gates.evals.data.items import DataSet, Item, Prompt, whole_text
from compression_gates.evals.scoring.protocols import WINDOW, TextProtocol
from compression_gates.evals.tasks import TASKS


@dataclass(frozen=True)
class Lengths:
    """Largest lengths in the data of a run, in tokens.

    Attributes:
        text: of an item, including the expected answer.
        sequence: of a sequence that a model processes at once, including generated tokens.
    """

    text: int
    sequence: int

    def unseen(self) -> str:
        """Explain why a difference in longer sequences affects no score."""
        if self.sequence < self.text:
            return f"these texts are read {self.sequence} tokens at a time, so no score can show it"
        return f"these texts have at most {self.text} tokens, so no score can show it"


def lengths_of(
    data: Sequence[DataSet], tokenizer: PreTrainedTokenizerBase, baseline: Checkpoint
) -> Lengths:
    """Return the largest lengths over all data sets."""
    lengths = [_lengths(data_set, tokenizer, baseline) for data_set in data]
    return Lengths(
        max(length.text for length in lengths), max(length.sequence for length in lengths)
    )


def _lengths(data: DataSet, tokenizer: PreTrainedTokenizerBase, baseline: Checkpoint) -> Lengths:
    texts = [_text(item) for item in data.items]
    text = sequence = max(map(len, tokenizer(texts, verbose=False).input_ids))
    if isinstance(data.items[0], Prompt):
        tasks = TASKS[baseline.kind].values()
        protocols = [task.protocol().overridden(data.overrides) for task in tasks]
        sequence += max(getattr(protocol, "max_new_tokens", 0) for protocol in protocols)
        if data.overrides.chat and tokenizer.chat_template:
            empty = Chat("an empty message", [{"role": "user", "content": ""}])
            # Characters are an upper bound on the number of tokens.
            sequence += len(render(tokenizer, empty).text)
    elif baseline.kind == CAUSAL:
        window = TextProtocol().overridden(data.overrides).context or WINDOW
        sequence = min(sequence, window, baseline.context or window)
    return Lengths(text, sequence)


def _text(item: Item) -> str:
    """Return the text of an item, including the expected answer of a prompt."""
    if isinstance(item, Prompt):
        return f"{item.prompt} {item.expected}" if item.expected else item.prompt
    return whole_text(item)
