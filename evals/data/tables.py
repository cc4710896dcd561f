"""Data sets from tables of rows: the roles of columns, and the templates of prompts."""

import random
import re
import string
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from compression_gates.evals.data.documents import (
    MIN_PASSAGE_CHARACTERS,
    document_indices,
    passages,
    shared_lines,
)
from compression_gates.evals.data.items import (
    NO_OVERRIDES,
    SQUAD,
    SYMBOLS,
    DataSet,
    Item,
    ProtocolOverrides,
    Question,
    Text,
)
from compression_gates.evals.data.rows import Place, Row, read_rows, rows_of
from compression_gates.evals.data.shapes import (
    PROMPT,
    QUESTION,
    SHAPES,
    TEXT,
    column_roles,
    shape_of,
)
from compression_gates.evals.errors import EvalError

SHOT_SEPARATOR = "\n\n"
MAX_DIGITS, MAX_LABELS = 30, 1 << 31
"""Largest number of characters of a label that is read as a number, and bound of its value."""


@dataclass(frozen=True)
class Table:
    """Rows, and how they become items.

    Attributes:
        place: where the rows come from.
        columns: the column of each role of the shape; ``answers.text`` is the field ``text`` of the
            column ``answers``. The role ``cluster`` is the document to which a row belongs; without
            it, rows with the same context, passage, document or text belong to one document.
        prompt: templates with roles in braces; the first one whose roles all have text is used.
            Without one, the templates of the shape are used.
        shots: number of solved rows that precede every prompt.
        skip: number of rows at the start that are left out, for example for calibration.
        count: number of items; None uses all rows.
        seed: seed of the shuffle of the rows; None keeps their order.
        join: separator by which all texts are joined into one document; None keeps them separate.
        classes: names of the classes, if labels are names.
        overrides: protocol settings that the data set replaces.
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
    overrides: ProtocolOverrides = NO_OVERRIDES

    @property
    def extract(self) -> str:
        """Pattern of the part of an answer that is compared; see :func:`extracted`."""
        return self.overrides.extract or ""

    @property
    def shape(self) -> str:
        """One of :data:`evals.data.shapes.SHAPES`.

        Raises:
            EvalError: no shape has these columns.
        """
        return shape_of(self.columns)


def check_prompt(template: str) -> None:
    """Raise an EvalError for a template that cannot be filled."""
    try:
        roles = _roles(template)
    except ValueError as error:
        raise EvalError(f"prompt {template!r}: {error}") from error
    known = column_roles()
    for role in roles:
        if role not in known:
            raise EvalError(
                f"prompt {template!r}: {{{role}}} is not a role; roles are {', '.join(known)}"
            )


def _roles(template: str) -> list[str]:
    """Return the roles in the braces of a template."""
    parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    if any(specification or conversion for _, _, specification, conversion in parts):
        raise ValueError("braces may contain only the name of a role")
    return [role for _, role, _, _ in parts]


def first_row(table: Table) -> Row:
    """Return the first row of a table, to check its columns.

    Raises:
        EvalError: there is no row, or a column that the table names is missing.
    """
    row = read_rows(table.place, most=1)[0]
    for role, column in table.columns.items():
        _cell(row, column, f"{table.place}: {role}")
    return row


def data_set(name: str, table: Table, extractive: bool = False) -> DataSet:
    """Read a data set from a table.

    Args:
        name: name of the data set.
        table: the rows, and how they become items.
        extractive: whether questions are answered by spans of their context.

    Raises:
        EvalError: a cell cannot be read, or no item is left; names the place, row and column.
    """
    shape = table.shape
    rows = _numbered_rows(table, shape)
    if table.seed is not None:
        random.Random(table.seed).shuffle(rows)
    if extractive:
        _check_extractive(table, shape)
    reader = RowReader(table, shape)
    reader.read_shots(rows[: table.shots])
    chosen = rows[table.shots :][: table.count]
    if table.join is not None:
        items = reader.joined(chosen)
    else:
        documents = document_indices(reader.document_keys(chosen))
        make = RowReader.question if extractive else SHAPES[shape].item
        items = [
            make(reader, number, row, document)
            for (number, row), document in zip(chosen, documents, strict=True)
        ]
    if not items:
        raise EvalError(
            f"data set {name}: {table.place} leaves no item after skip, shots and empty texts"
        )
    form = SYMBOLS if SHAPES[shape].keeps_symbols(table) else SQUAD
    return DataSet(name, tuple(items), table.overrides, table.classes, form)


def _check_extractive(table: Table, shape: str) -> None:
    """Raise an EvalError for a table whose answers cannot be spans of a context."""
    if shape != QUESTION or "context" not in table.columns:
        raise EvalError(
            f"{table.place}: extractive answers need columns for question, context and answers"
        )
    for setting in ("prompt", "shots", "extract"):
        if getattr(table, setting):
            raise EvalError(f"{table.place}: {setting} does not apply to extractive answers")


def _numbered_rows(table: Table, shape: str) -> list[tuple[int, Row]]:
    """Return the rows that a table uses, with their numbers from 1.

    Rows without text are left out if every text is a document.
    """
    limit = None
    if table.count is not None and table.seed is None:  # a shuffle needs all rows
        limit = table.count + table.shots
    skips_blank = shape == TEXT and table.join is None
    reader = RowReader(table, shape)
    rows: list[tuple[int, Row]] = []
    for number, row in enumerate(rows_of(table.place), 1):
        if number <= table.skip:
            continue
        if skips_blank and not reader.text(number, row, "text").strip():
            continue
        rows.append((number, row))
        if len(rows) == limit:
            break
    return rows


class RowReader:
    """Reads the cells of a table's rows by their roles.

    A row is passed with its number, which errors name together with the place and the column. All
    errors are EvalErrors.
    """

    def __init__(self, table: Table, shape: str):
        self.table = table
        self.shape = SHAPES[shape]
        self._is_instruction = shape == PROMPT and not table.prompt
        self._shots = ""

    def read_shots(self, rows: Sequence[tuple[int, Row]]) -> None:
        """Set the solved rows that precede every prompt."""
        solved = [f"{self.prompt(*row)} {self._expected(*row)[0]}" for row in rows]
        self._shots = "".join(f"{shot}{SHOT_SEPARATOR}" for shot in solved)

    def error(self, number: int, message: str) -> EvalError:
        """Return an error for a row."""
        return EvalError(f"{self.table.place}: row {number}: {message}")

    def cell(self, number: int, row: Row, role: str) -> object:
        """Return the value of the column of a role."""
        where = f"{self.table.place}: row {number}: {role}"
        return _cell(row, self.table.columns[role], where)

    def text(self, number: int, row: Row, role: str) -> str:
        """Return the text of the column of a role; empty text for null."""
        value = self.cell(number, row, role)
        if value is None:
            return ""
        if not isinstance(value, str):
            column, kind = self.table.columns[role], type(value).__name__
            raise self.error(number, f"column {column!r} contains {kind}, not text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(number, f"{role} is not valid text: {error.reason}") from error
        return value

    def document_keys(self, rows: Sequence[tuple[int, Row]]) -> Sequence[Hashable | None]:
        """Return a key of the document of each row; None for a row that is a document itself."""
        if "cluster" in self.table.columns:
            cells = [self.cell(number, row, "cluster") for number, row in rows]
            return [None if cell in (None, "") else str(cell) for cell in cells]
        for role in ("context", "document"):
            if role in self.table.columns:
                texts = [self.text(number, row, role) or None for number, row in rows]
                # A short text that all rows share is an instruction.
                shared = len(set(texts)) == 1 and len(texts[0] or "") < MIN_PASSAGE_CHARACTERS
                return [None] * len(texts) if shared else texts
        keys = passages([row for _, row in rows])
        if keys is not None:
            return keys
        if not self.shape.prompts:
            roles = [role for role in self.shape.columns if role != self.shape.expected]
            return [tuple(self.text(*row, role) for role in roles) for row in rows]
        return shared_lines([self.prompt(number, row) for number, row in rows])

    def joined(self, rows: Sequence[tuple[int, Row]]) -> list[Item]:
        """Join all texts into one document; none if there is no text."""
        text = self.table.join.join(self.text(number, row, "text") for number, row in rows)
        return [Text(text, 0)] if text.strip() else []

    def label(self, number: int, row: Row) -> int:
        """Return the index of a row's class."""
        label = self.cell(number, row, "label")
        shown, classes = f"label {_shown(label)}", self.table.classes
        if isinstance(label, str) and classes:
            if label not in classes:
                raise self.error(number, f"{shown} is not one of {', '.join(classes)}")
            label = classes.index(label)
        if isinstance(label, str) and len(label) <= MAX_DIGITS and label.strip().isdecimal():
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < MAX_LABELS:
            raise self.error(
                number,
                f"{shown} is not a class; labels are whole numbers from 0, or names that the data "
                "set lists as classes",
            )
        return label

    def question(self, number: int, row: Row, document: int) -> Question:
        """Return a question that is answered by a span of its context."""
        context = self.text(number, row, "context")
        expected, *accepted = self.answers(number, row)
        question = self.text(number, row, "question")
        return Question(question, context, expected, document, tuple(accepted))

    def prompt_after_shots(self, number: int, row: Row) -> str:
        """Return the prompt of a row with the solved rows before it."""
        return self._shots + self.prompt(number, row)

    def prompt(self, number: int, row: Row) -> str:
        """Return the prompt of a row, from the first template whose roles all have text."""
        filled = {
            role: self.text(number, row, role)
            for role in self.table.columns
            if role not in (self.shape.expected, "cluster")
        }
        if self._is_instruction:
            return _instruction(filled["prompt"], filled.get("context", ""))
        templates = self.table.prompt or self.shape.prompts
        for template in templates:
            if all(filled.get(role) for role in _roles(template)):
                return template.format(**filled)
        raise self.error(number, f"no text for the roles of the prompt {templates[-1]!r}")

    def _expected(self, number: int, row: Row) -> list[str]:
        """Return the correct answers as they are in the table."""
        role = self.shape.expected
        answers = self.cell(number, row, role)
        if isinstance(answers, Mapping):
            answers = answers.get("text")
        answers = [answers] if isinstance(answers, str) else answers
        if isinstance(answers, list) and answers and all(isinstance(a, Mapping) for a in answers):
            answers = [answer.get("text") for answer in answers]
        if not isinstance(answers, list | tuple) or not all(isinstance(a, str) for a in answers):
            column = self.table.columns[role]
            raise self.error(number, f"column {column!r} contains neither text nor a list of texts")
        return list(answers) or [""]

    def answers(self, number: int, row: Row) -> list[str]:
        """Return the distinct correct answers, as they are compared."""
        expected = self._expected(number, row)
        answers = [extracted(answer, self.table.extract) for answer in expected]
        if self.table.extract and not all(answers):
            # The pattern is applied to the model's answers as well, so none could be correct.
            answer = expected[answers.index("")][-60:]
            raise self.error(
                number, f"extract matches nothing in the answer {answer!r}; correct the pattern"
            )
        return list(dict.fromkeys(answers))


def _shown(label: object) -> str:
    """Return a label in at most 60 characters."""
    text = repr(label) if not isinstance(label, int) or abs(label) < MAX_LABELS else hex(label)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _instruction(prompt: str, context: str) -> str:
    """Return a prompt followed by its context, unless the prompt contains it."""
    return prompt if not context or context in prompt else f"{prompt}\n\n{context}"


def extracted(answer: str, pattern: str) -> str:
    """Return the part of an answer that is compared: group 1 of the last match of ``pattern``.

    It is empty if the pattern does not match, and the whole answer if the pattern is empty.

    >>> extracted("4 + 3 = 7. #### 7", r"#### ([0-9]+)")
    '7'
    """
    if not pattern:
        return answer
    matches = list(re.finditer(pattern, answer))
    return matches[-1].group(1) or "" if matches else ""


def _cell(row: Row, column: str, where: str) -> object:
    """Return the value of a column; ``answers.text`` is the field ``text`` of ``answers``."""
    if column in row:
        return row[column]
    value: object = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            names = ", ".join(map(str, row))
            raise EvalError(f"{where}: there is no column {column!r}; the columns are {names}")
        value = value[part]
    return value
