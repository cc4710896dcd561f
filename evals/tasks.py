"""The tasks of each kind of model, in one table by kind and role.

A data set has a *role* for a model, such as ``answers``. The table lists the shapes of data that a
role accepts, the protocol by which they are scored, and the function that scores them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, CLASSIFIER, EXTRACTIVE, SEQ2SEQ
from compression_gates.evals.data.shapes import BARE, LABELLED, PROMPT, QUESTION, SUMMARY, TEXT
from compression_gates.evals.scoring.protocols import (
    ClassProtocol,
    ContinuationProtocol,
    ExtractionProtocol,
    GenerationProtocol,
    Protocol,
    TextProtocol,
)


class Reference(Enum):
    """The result of the baseline that is needed to score a candidate."""

    NOTHING = "nothing"
    PREDICTIONS = "predictions"  # the distribution at every token
    OUTPUT = "output"  # the arrays that the scorer returned for the baseline


@dataclass(frozen=True)
class Task:
    """How a kind of model is scored on data in a role.

    Attributes:
        shapes: shapes of data that have this role by default.
        protocol: class of the protocol.
        scorer: ``module.function`` in :mod:`evals.scoring`; it is called with the model, the data
            set, the protocol and, if ``reference`` is ``OUTPUT``, the arrays of the baseline or
            None. Its arrays are described in :data:`evals.store.array_schemas.SCHEMAS`.
        other_shapes: further shapes that a profile can give this role.
        columns: roles of columns that the data need in addition to those of their shape.
        reference: the result of the baseline that is needed to score a candidate.
    """

    shapes: tuple[str, ...]
    protocol: type[Protocol]
    scorer: str
    other_shapes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    reference: Reference = Reference.NOTHING


_TEXT = Task(
    (),
    TextProtocol,
    "text.score_text",
    other_shapes=(PROMPT, QUESTION, SUMMARY),
    reference=Reference.PREDICTIONS,
)
_ANSWERS = Task((QUESTION, PROMPT), GenerationProtocol, "generation.generate")
_SUMMARIES = Task((SUMMARY, PROMPT), GenerationProtocol, "generation.generate")
TASKS: dict[str, dict[str, Task]] = {
    CAUSAL: {
        "text": replace(_TEXT, shapes=(TEXT,)),
        "answers": _ANSWERS,
        "summaries": _SUMMARIES,
        "continuations": Task(
            (BARE,),
            ContinuationProtocol,
            "continuation.continue_prompts",
            other_shapes=(TEXT, PROMPT, QUESTION, SUMMARY),
            reference=Reference.OUTPUT,
        ),
    },
    CLASSIFIER: {
        "text": Task((TEXT,), ClassProtocol, "classes.classify", other_shapes=(LABELLED,)),
        "labels": Task((LABELLED,), ClassProtocol, "classes.classify"),
    },
    EXTRACTIVE: {
        "answers": Task((QUESTION,), ExtractionProtocol, "answers.extract", columns=("context",)),
    },
    SEQ2SEQ: {
        "text": _TEXT,
        "answers": _ANSWERS,
        "summaries": _SUMMARIES,
    },
}
"""The tasks of each kind of model, by role.

The tokens of ``text`` are predicted, or it is classified without labels. ``answers`` are questions
with short answers, ``summaries`` prompts with long answers, ``labels`` texts with their classes,
and ``continuations`` prompts that are continued without an expected answer.
"""
ROLES = tuple(dict.fromkeys(role for tasks in TASKS.values() for role in tasks))
"""All roles, in the order in which a model is scored on them."""


def roles_of(kind: str) -> Mapping[str, Task]:
    """Return the tasks of a kind of model by role; empty for logs, which are not scored."""
    return TASKS.get(kind, {})


def can_have_role(shape: str, role: str, kind: str) -> bool:
    """Return whether data of a shape can have a role for a kind of model."""
    task = roles_of(kind).get(role)
    return task is not None and shape in (*task.shapes, *task.other_shapes)


def default_roles(shape: str, kind: str) -> list[str]:
    """Return the roles that data of a shape have by default for a kind of model."""
    return [role for role, task in roles_of(kind).items() if shape in task.shapes]
