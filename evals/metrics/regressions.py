"""The items on which a candidate is worse than its baseline, and how they are shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compression_gates.evals.data.items import DataSet, Prompt, Question, input_text
from compression_gates.evals.foreign_text import fenced, first_difference, snippet, valid_unicode
from compression_gates.evals.metrics.units import counted

ON_SCREEN, IN_MARKDOWN, KEPT = 3, 10, 1000
"""Largest numbers of items of a failing case that are printed, shown in full in the report, and
stored."""
PROMPT_WIDTH, ANSWER_WIDTH = 100, 60
"""Largest number of characters of a prompt and of an answer that are printed."""
LONGEST_PROMPT, LONGEST_ANSWER = 2000, 500
"""Largest number of characters of a prompt and of an answer that are stored."""

_ANSWERS = ("expected", "baseline", "candidate")
Answer = str | int | bool | None
"""A text, the index of a class, or whether an answer was right; None if there is none."""


@dataclass(frozen=True)
class Regression:
    """An item on which the candidate is worse than the baseline.

    Attributes:
        row: the item's position in its data set, counted from 1.
        document: the document that it belongs to, counted from 1.
        prompt: the input of the model; the middle of a long one is omitted.
        question: the line of the prompt with the question, if the rest of it is context.
        expected, baseline, candidate: the right answer and those of both models; of long texts, the
            part around the first difference.
        loss: the candidate's loss, in the metric's stored unit; NaN if it is not a number.
        unit: of ``loss``, if the loss is shown in place of answers.
        window: the window of a long text, counted from 1; 0 for a whole item.
    """

    row: int
    document: int
    prompt: str
    question: str = ""
    expected: Answer = None
    baseline: Answer = None
    candidate: Answer = None
    loss: float = 0.0
    unit: str = ""
    window: int = 0

    @property
    def place(self) -> str:
        """Position such as ``row 7, document 3, window 2``, without what is redundant."""
        parts = [f"row {self.row}"]
        if self.document != self.row:
            parts.append(f"document {self.document}")
        if self.window:
            parts.append(f"window {self.window}")
        return ", ".join(parts)

    def line(self) -> str:
        """Return the item as one shortened line for the terminal."""
        question = snippet(self.question or self.prompt, PROMPT_WIDTH)
        answers = dict(self._answers())
        place = _first_difference(answers)
        answers = [f"{name} {_shown(answer, place)}" for name, answer in answers.items()]
        return f"{self.place}: " + ", ".join([*self._loss_text(), question, *answers])

    def markdown(self) -> str:
        """Return the whole item as a fenced block."""
        answers = [f"{name + ':':<10} {_plain(answer)}" for name, answer in self._answers()]
        head = ", ".join([self.place, *self._loss_text()])
        return fenced("\n".join([head, "", self.prompt.rstrip("\n"), *([""] if answers else []),
                                 *answers]))  # fmt: skip

    def _answers(self) -> list[tuple[str, Answer]]:
        answers = [(name, getattr(self, name)) for name in _ANSWERS]
        return [(name, answer) for name, answer in answers if answer is not None]

    def _loss_text(self) -> list[str]:
        return [f"{self.loss:.3g} {self.unit}"] if self.unit else []


@dataclass(frozen=True)
class Regressions:
    """The items that got worse, worst first, and the number of those that are omitted."""

    items: tuple[Regression, ...] = ()
    omitted: int = 0

    def __len__(self) -> int:
        """Number of items that got worse, including the omitted ones."""
        return len(self.items) + self.omitted


def regression(data: DataSet, index: int, **fields) -> Regression:
    """Return the item at ``index`` of a data set, with further fields of :class:`Regression`.

    Of long answers, the part around the first difference is kept; of other long texts, the
    beginning and the end. Lone surrogates are escaped.
    """
    item = data.items[index]
    texts = {"prompt": input_text(item), "question": _question(item), **fields}
    for name, value in texts.items():
        if isinstance(value, str) and name != "unit":
            texts[name] = valid_unicode(value)
    answers = {n: texts[n] for n in _ANSWERS if isinstance(texts.get(n), str)}
    texts |= _around(answers, _first_difference(answers))
    texts["prompt"] = _cut(texts["prompt"], LONGEST_PROMPT)
    texts["question"] = _cut(texts["question"], LONGEST_ANSWER)
    return Regression(row=index + 1, document=int(item.document) + 1, **texts)


def worst_items(
    losses: Sequence[float] | np.ndarray, describe: Callable[[int], Regression]
) -> Regressions:
    """Return the items with a positive loss, NaN first and then in descending order.

    Args:
        losses: ``(items,)``.
        describe: describes the item at an index; its loss is filled in.
    """
    losses = np.asarray(losses, dtype=np.float64)
    ranked = np.nan_to_num(losses, nan=np.inf, posinf=np.finfo(np.float64).max)
    order = np.argsort(-ranked, kind="stable")
    order = order[ranked[order] > 0]
    kept = order[:KEPT]
    items = tuple(replace(describe(int(i)), loss=float(losses[i])) for i in kept)
    return Regressions(items, len(order) - len(kept))


def _question(item: object) -> str:
    if isinstance(item, Question):
        return item.question
    if not isinstance(item, Prompt):
        return ""
    # The last line introduces the answer; the one before it has the question.
    lines = item.prompt.rstrip().splitlines()
    return lines[-2] if len(lines) > 1 else ""


def _cut(text: str, length: int) -> str:
    """Return ``text``, without its middle if it is longer than ``length``."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]} {_omission(len(text) - 2 * half)} {text[-half:]}"


def _first_difference(answers: Mapping[str, Answer]) -> int:
    """Return the index at which the texts of both models differ, or else those of the candidate and
    the expected text; 0 if none do."""
    candidate = answers.get("candidate")
    for other in (answers.get("baseline"), answers.get("expected")):
        if isinstance(candidate, str) and isinstance(other, str) and candidate != other:
            return first_difference(candidate, other)
    return 0


def _around(texts: Mapping[str, str], place: int) -> dict[str, str]:
    """Return the part of each text around ``place``, the same part if any of them is too long.

    Of a text that ends before the part, the end is kept.
    """
    if all(len(text) <= LONGEST_ANSWER for text in texts.values()):
        return dict(texts)
    start = max(place - LONGEST_ANSWER // 2, 0)
    kept = {}
    for name, text in texts.items():
        first = start if start <= len(text) else max(len(text) - LONGEST_ANSWER, 0)
        last = first + LONGEST_ANSWER
        before = f"{_omission(first)} " if first else ""
        after = f" {_omission(len(text) - last)}" if last < len(text) else ""
        kept[name] = f"{before}{text[first:last]}{after}"
    return kept


def _omission(count: int) -> str:
    return f"[... {counted(count, 'character')} ...]"


def _shown(answer: Answer, place: int) -> str:
    return snippet(answer, ANSWER_WIDTH, place) if isinstance(answer, str) else _plain(answer)


def _plain(answer: Answer) -> str:
    if isinstance(answer, bool):
        return "right" if answer else "wrong"
    return str(answer)
