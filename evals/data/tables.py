"""Rows of a table as items: which column plays which role, and how prompts are written."""

import random
import re
import string
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from compression_gates.evals.data.documents import LONG, numbered, passages, shared_lines
from compression_gates.evals.data.items import DataSet, Item, Labelled, Prompt, Question, Text
from compression_gates.evals.data.rows import Place, Row, read_rows, rows_of
from compression_gates.evals.errors import EvalError
from compression_gates.evals.metrics.normal_forms import SETTING, SYMBOLS

LABELLED, TEXT, QUESTION, SUMMARY, PROMPT = "labelled", "text", "question", "summary", "prompt"
BARE = "bare prompt"
"""Prompts without a response, to be continued."""
SHAPES = {
    LABELLED: ("text", "label"),
    TEXT: ("text",),
    QUESTION: ("question", "answers"),
    SUMMARY: ("document", "summary"),
    PROMPT: ("prompt", "response"),
    BARE: ("prompt",),
}
"""The columns that make each shape of data; the first that is whole is meant."""
COLUMNS = ("text", "label", "question", "context", "answers", "document", "summary", "prompt",
           "response", "cluster")  # fmt: skip
_PROMPTS = {
    QUESTION: ("{context}\n\nQuestion: {question}\nAnswer:", "Question: {question}\nAnswer:"),
    SUMMARY: ("{document}\n\nSummary:",),
    PROMPT: ("{prompt}",),
    BARE: ("{prompt}",),
}
_EXPECTED = {QUESTION: "answers", SUMMARY: "summary", PROMPT: "response"}
BETWEEN_SHOTS = "\n\n"
DIGITS, MOST_LABELS = 30, 1 << 31
"""Characters of a label that is read as a number, and what no label reaches."""


@dataclass(frozen=True)
class Table:
    """Rows, and how they become items.

    Attributes:
        place: where the rows come from.
        columns: the column that plays each of :data:`COLUMNS`; ``answers.text`` looks inside.
            ``cluster`` says which document a row belongs to; without it rows with the same
            context, passage, document or text are of one.
        prompt: templates with roles in braces; the first whose roles are all filled is used.
        shots: rows that stand solved before every prompt.
        skip: rows at the front that are left to others, such as calibration.
        count: items; None takes all.
        seed: rows are shuffled by it; None keeps their order.
        join: what texts are put together with, to one document; None keeps each for itself.
        classes: names of labels, where labels are names.
        how: settings of the protocols.
    """

    place: Place
    columns: Mapping[str, str]
    prompt: tuple[str, ...] = ()
    shots: int = 0
    skip: int = 0
    count: int | None = None
    seed: int | None = None
    join: str | None = None
    classes: tuple[str, ...] = ()
    how: Mapping[str, object] = field(default_factory=dict)

    @property
    def extract(self) -> str:
        """What of an expected and of a given answer counts: group 1 of the last match, or all."""
        return str(self.how.get("extract", ""))

    @property
    def shape(self) -> str:
        """What its columns make.

        Raises:
            EvalError: nothing.
        """
        for shape, needed in SHAPES.items():
            if set(needed) <= set(self.columns):
                return shape
        ways = "; ".join(" and ".join(needed) for needed in SHAPES.values())
        raise EvalError(
            f"columns {', '.join(self.columns) or 'none'} make no data set; give {ways}"
        )


def check_prompt(template: str) -> None:
    """Raises an EvalError for a template that cannot be filled."""
    try:
        names = _names(template)
    except ValueError as error:
        raise EvalError(f"prompt {template!r}: {error}") from error
    for name in names:
        if name not in COLUMNS:
            raise EvalError(f"prompt {template!r}: {{{name}}} is none of {', '.join(COLUMNS)}")


def _names(template: str) -> list[str]:
    parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    if any(how or conversion for _, _, how, conversion in parts):
        raise ValueError("roles stand in braces alone")
    return [name for _, name, _, _ in parts]


def first_row(table: Table) -> Row:
    """The first row, whose columns are those that the table names.

    Raises:
        EvalError: a column that is not there.
    """
    row = read_rows(table.place, most=1)[0]
    for role, column in table.columns.items():
        _cell(row, column, f"{table.place}: {role}")
    return row


def data_set(name: str, table: Table, extractive: bool = False) -> DataSet:
    """The data set called ``name``.

    Args:
        name: of the data set.
        table: rows and their reading.
        extractive: questions are answered by pieces of their context, not by continuing a prompt.

    Raises:
        EvalError: names the place, the row and the column at fault.
    """
    shape = table.shape
    rows = _numbered(table, shape)
    if table.seed is not None:
        random.Random(table.seed).shuffle(rows)
    read = _Reader(table, shape)
    shots = [read.solved(number, row) for number, row in rows[: table.shots]]
    chosen = rows[table.shots :][: table.count]
    documents = numbered(read.keys(chosen))
    if shape == TEXT:
        items: Sequence[Item] = read.texts(chosen, documents)
    else:
        make: dict[str, Callable[[int, Row, int], Item]] = {LABELLED: read.labelled}
        if extractive:
            if shape != QUESTION or "context" not in table.columns:
                raise EvalError(
                    f"{table.place}: extractive answers need question, context, answers"
                )
            written = [name for name in ("prompt", "shots", "extract") if getattr(table, name)]
            if written:
                raise EvalError(f"{table.place}: {written[0]} is not for extracted answers")
            make[QUESTION] = read.question
        before = "".join(f"{shot}{BETWEEN_SHOTS}" for shot in shots)
        one = make.get(shape, lambda number, row, document: read.prompt(
            number, row, document, before))  # fmt: skip
        pairs = zip(chosen, documents, strict=True)
        items = [one(number, row, document) for (number, row), document in pairs]
    if not items:
        raise EvalError(f"data set {name}: {table.place} leaves no item")
    how = {"classes": table.classes} if shape == LABELLED and table.classes else {}
    if shape == PROMPT or (shape == QUESTION and ("context" not in table.columns or table.extract)):
        how[SETTING] = SYMBOLS
    return DataSet(name, tuple(items), {**table.how, **how})


def _numbered(table: Table, shape: str) -> list[tuple[int, Row]]:
    """Rows with their numbers, as many as it takes; without those that hold no text where each
    text stands for itself."""
    wanted = None
    if table.count is not None and table.seed is None:
        wanted = table.count + table.shots
    alone = shape == TEXT and table.join is None
    found: list[tuple[int, Row]] = []
    for number, row in enumerate(rows_of(table.place), 1):
        if number <= table.skip:
            continue
        if alone and not _Reader(table, shape).word(number, row, "text").strip():
            continue
        found.append((number, row))
        if len(found) == wanted:
            break
    return found


@dataclass
class _Reader:
    """Makes items of rows; every complaint names the place, the row and the column."""

    table: Table
    shape: str

    def cell(self, number: int, row: Row, role: str) -> object:
        where = f"{self.table.place}: row {number}: {role}"
        return _cell(row, self.table.columns[role], where)

    def word(self, number: int, row: Row, role: str) -> str:
        found = self.cell(number, row, role)
        if found is None:
            return ""
        if not isinstance(found, str):
            raise EvalError(
                f"{self.table.place}: row {number}: column {self.table.columns[role]!r} holds "
                f"{type(found).__name__}, not text"
            )
        try:
            found.encode()
        except UnicodeEncodeError as error:
            raise EvalError(
                f"{self.table.place}: row {number}: {role} is no text: {error.reason}"
            ) from error
        return found

    def keys(self, rows: Sequence[tuple[int, Row]]) -> Sequence[Hashable | None]:
        """What tells the document of each row; None for a row that is one by itself."""
        if "cluster" in self.table.columns:
            cells = [self.cell(number, row, "cluster") for number, row in rows]
            return [None if cell in (None, "") else str(cell) for cell in cells]
        for role in ("context", "document"):
            if role in self.table.columns:
                texts = [self.word(number, row, role) or None for number, row in rows]
                # A short text that all rows share is an instruction, and makes no document.
                shared = len(set(texts)) == 1 and len(texts[0] or "") < LONG
                return [None] * len(texts) if shared else texts
        found = passages([row for _, row in rows])
        if found is not None:
            return found
        if self.shape in (TEXT, LABELLED):
            return [self.word(number, row, "text") for number, row in rows]
        return shared_lines([self.asked(number, row) for number, row in rows])

    def texts(self, rows: Sequence[tuple[int, Row]], documents: Sequence[int]) -> list[Text]:
        texts = [self.word(number, row, "text") for number, row in rows]
        if self.table.join is not None:
            whole = self.table.join.join(texts)
            return [Text(whole, 0)] if whole.strip() else []
        return [Text(*pair) for pair in zip(texts, documents, strict=True)]

    def labelled(self, number: int, row: Row, document: int) -> Labelled:
        text, label = self.word(number, row, "text"), self.cell(number, row, "label")
        where = f"{self.table.place}: row {number}: label {_shown(label)}"
        if isinstance(label, str) and self.table.classes:
            if label not in self.table.classes:
                raise EvalError(f"{where} is none of {', '.join(self.table.classes)}")
            label = self.table.classes.index(label)
        if isinstance(label, str) and len(label) <= DIGITS and label.strip().isdecimal():
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < MOST_LABELS:
            raise EvalError(
                f"{where} is no class; labels are whole numbers from 0, or names that the data "
                "set lists as classes"
            )
        return Labelled(text, label, document)

    def question(self, number: int, row: Row, document: int) -> Question:
        context = self.word(number, row, "context")
        expected, *more = self.answers(number, row)
        question = self.word(number, row, "question")
        return Question(question, context, expected, document, tuple(more))

    def prompt(self, number: int, row: Row, document: int, before: str) -> Prompt:
        expected, *more = self.answers(number, row) if self.shape != BARE else [""]
        return Prompt(before + self.asked(number, row), expected, document, tuple(more))

    def solved(self, number: int, row: Row) -> str:
        """A row with its answer as it stands, the way to it included."""
        return f"{self.asked(number, row)} {self.raw(number, row)[0]}"

    def asked(self, number: int, row: Row) -> str:
        filled = {
            role: self.word(number, row, role)
            for role in self.table.columns
            if role not in (_EXPECTED.get(self.shape), "cluster")
        }
        if self.shape == PROMPT and not self.table.prompt:
            return _instruction(filled["prompt"], filled.get("context", ""))
        templates = self.table.prompt or _PROMPTS[self.shape]
        for template in templates:
            if all(filled.get(name) for name in _names(template)):
                return template.format(**filled)
        raise EvalError(f"{self.table.place}: row {number} fills no prompt: {templates[-1]!r}")

    def raw(self, number: int, row: Row) -> list[str]:
        role = _EXPECTED[self.shape]
        found = self.cell(number, row, role)
        if isinstance(found, Mapping):
            found = found.get("text")
        found = [found] if isinstance(found, str) else found
        if isinstance(found, list) and found and all(isinstance(a, Mapping) for a in found):
            found = [answer.get("text") for answer in found]
        if not isinstance(found, list | tuple) or not all(isinstance(a, str) for a in found):
            raise EvalError(
                f"{self.table.place}: row {number}: column {self.table.columns[role]!r} holds no "
                "text and no list of texts"
            )
        return list(found) or [""]

    def answers(self, number: int, row: Row) -> list[str]:
        """What is expected, and what is as right."""
        raw = self.raw(number, row)
        found = [extracted(answer, self.table.extract) for answer in raw]
        if self.table.extract and not all(found):
            # What is given is cut in the same way: nothing would be taken for right.
            raise EvalError(
                f"{self.table.place}: row {number}: extract finds nothing in the answer "
                f"{raw[found.index('')][-60:]!r}"
            )
        return list(dict.fromkeys(found))


def _shown(label: object) -> str:
    """A label as it may stand in a line."""
    text = repr(label) if not isinstance(label, int) or abs(label) < MOST_LABELS else hex(label)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _instruction(prompt: str, context: str) -> str:
    """A prompt with what it is about, unless that stands in it already."""
    return prompt if not context or context in prompt else f"{prompt}\n\n{context}"


def extracted(answer: str, pattern: str) -> str:
    """What of an answer counts: group 1 of the last match of ``pattern``, or nothing.

    >>> extracted("4 + 3 = 7. #### 7", r"#### ([0-9]+)")
    '7'
    """
    if not pattern:
        return answer
    found = list(re.finditer(pattern, answer))
    return found[-1].group(1) or "" if found else ""


def _cell(row: Row, column: str, where: str) -> object:
    """The value of a column; ``answers.text`` is that of ``text`` inside ``answers``."""
    if column in row:
        return row[column]
    found: object = row
    for part in column.split("."):
        if not isinstance(found, Mapping) or part not in found:
            names = ", ".join(map(str, row))
            raise EvalError(f"{where}: there is no column {column!r}; there are {names}")
        found = found[part]
    return found
