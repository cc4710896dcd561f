"""The tasks of each kind of model: one table of role and kind.

A data set plays a *role* for a model, such as ``answers``. The table says which shapes of data can
play it, by which protocol they are scored, and what scores them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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

ROLES = ("text", "answers", "summaries", "labels", "continuations")
"""Roles in the order in which a model is scored on them.

``text`` is predicted token by token, or classified without labels; ``answers`` are questions with
short answers, ``summaries`` prompts with long ones, ``labels`` texts with their classes, and
``continuations`` prompts that are continued without a right answer.
"""


class Reference(Enum):
    """What scoring a candidate takes from its baseline."""

    NOTHING = "nothing"
    PREDICTIONS = "predictions"  # the distribution at every token
    OUTPUT = "output"  # the arrays that the baseline was measured as


@dataclass(frozen=True)
class Task:
    """How a kind of model is scored on data in a role.

    Attributes:
        shapes: of the data that play this role if nothing else is said.
        protocol: its class.
        scorer: ``module.function`` in :mod:`evals.scoring`.
        also: further shapes that can play the role where a profile says so.
        columns: roles of columns that the data need beyond those of their shape.
        reference: what scoring a candidate takes from its baseline.
    """

    shapes: tuple[str, ...]
    protocol: type[Protocol]
    scorer: str
    also: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    reference: Reference = Reference.NOTHING


TASKS: dict[str, dict[str, Task]] = {
    CAUSAL: {
        "text": Task(
            (TEXT,),
            TextProtocol,
            "text.score_text",
            also=(PROMPT, QUESTION, SUMMARY),
            reference=Reference.PREDICTIONS,
        ),
        "answers": Task((QUESTION, PROMPT), GenerationProtocol, "generation.generate"),
        "summaries": Task((SUMMARY, PROMPT), GenerationProtocol, "generation.generate"),
        "continuations": Task(
            (BARE,),
            ContinuationProtocol,
            "continuation.continue_prompts",
            also=(TEXT, PROMPT, QUESTION, SUMMARY),
            reference=Reference.OUTPUT,
        ),
    },
    CLASSIFIER: {
        "text": Task((TEXT,), ClassProtocol, "classes.classify", also=(LABELLED,)),
        "labels": Task((LABELLED,), ClassProtocol, "classes.classify"),
    },
    EXTRACTIVE: {
        "answers": Task((QUESTION,), ExtractionProtocol, "answers.extract", columns=("context",)),
    },
    SEQ2SEQ: {
        "text": Task(
            (),
            TextProtocol,
            "text.score_text",
            also=(PROMPT, QUESTION, SUMMARY),
            reference=Reference.PREDICTIONS,
        ),
        "answers": Task((QUESTION, PROMPT), GenerationProtocol, "generation.generate"),
        "summaries": Task((SUMMARY, PROMPT), GenerationProtocol, "generation.generate"),
    },
}
"""The tasks of each kind of model, by role."""


def roles_of(kind: str) -> Mapping[str, Task]:
    """The tasks of a kind of model by role; empty for logs, which are not scored."""
    return TASKS.get(kind, {})


def can_play(shape: str, role: str, kind: str) -> bool:
    """Whether data of a shape can play a role for a kind of model."""
    task = roles_of(kind).get(role)
    return task is not None and shape in (*task.shapes, *task.also)


def usual_roles(shape: str, kind: str) -> list[str]:
    """The roles that data of a shape play for a kind of model if nothing else is said."""
    return [role for role, task in roles_of(kind).items() if shape in task.shapes]
