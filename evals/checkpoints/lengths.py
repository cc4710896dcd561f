"""How long the sequences are that are scored: what needs longer ones, no score shows."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, Checkpoint
from compression_gates.evals.data.items import DataSet, Item, Prompt, whole_text
from compression_gates.evals.scoring.protocols import WINDOW, TextProtocol
from compression_gates.evals.tasks import TASKS


@dataclass(frozen=True)
class Lengths:
    """Of the data of a run, in tokens.

    Attributes:
        text: of the longest item, with what is expected of a model.
        sequence: that a model sees at a time at most, with what it says itself.
    """

    text: int
    sequence: int

    def unseen(self) -> str:
        """Why a difference in longer sequences shows in no score."""
        if self.sequence < self.text:
            return f"these texts are read {self.sequence} tokens at a time, so no score can show it"
        return f"these texts have at most {self.text} tokens, so no score can show it"


def lengths_of(
    data: Sequence[DataSet], tokenizer: PreTrainedTokenizerBase, baseline: Checkpoint
) -> Lengths:
    """Lengths of all items of all data sets."""
    found = [_lengths(one, tokenizer, baseline) for one in data]
    return Lengths(max(one.text for one in found), max(one.sequence for one in found))


def _lengths(data: DataSet, tokenizer: PreTrainedTokenizerBase, baseline: Checkpoint) -> Lengths:
    texts = [_text(item) for item in data.items]
    text = sequence = max(map(len, tokenizer(texts, verbose=False).input_ids))
    if isinstance(data.items[0], Prompt):
        tasks = TASKS[baseline.kind].values()
        protocols = [task.protocol().overridden(data.overrides) for task in tasks]
        sequence += max(getattr(protocol, "max_new_tokens", 0) for protocol in protocols)
        if data.overrides.chat and tokenizer.chat_template:
            turn = [{"role": "user", "content": ""}]
            with suppress(Exception):  # a template is a program, whose errors scoring tells
                # A token is a character or more.
                sequence += len(tokenizer.apply_chat_template(turn, tokenize=False))
    elif baseline.kind == CAUSAL:
        window = TextProtocol().overridden(data.overrides).context or WINDOW
        sequence = min(sequence, window, baseline.context or window)
    return Lengths(text, sequence)


def _text(item: Item) -> str:
    """An item with what is expected of a model, where anything is."""
    if isinstance(item, Prompt):
        return f"{item.prompt} {item.expected}" if item.expected else item.prompt
    return whole_text(item)
