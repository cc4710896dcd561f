"""Chat templates of two checkpoints, by the tokens of the conversations that they render."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, Checkpoint
from compression_gates.evals.checkpoints.encoding import (
    SHOWN,
    Pair,
    encode,
    first_difference,
    parting,
    token_text,
)
from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.stress import CONVERSATIONS, TOOLS, VARIABLES
from compression_gates.evals.checkpoints.tokens import are_one, first_of
from compression_gates.evals.data.items import DataSet, Prompt
from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.foreign_text import snippet
from compression_gates.evals.scoring.prompts import rendered

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

DEFAULT = "default"
ENDLESS = "no end after"
"""How the reason of a template that takes too long begins."""
FILES = ("tokenizer_config.json", "chat_template.json")
"""Files in which readers other than transformers look for a template."""


@dataclass(frozen=True)
class Chat:
    """A conversation and how it is asked to be rendered.

    Attributes:
        name: how messages call it.
        variables: of the template.
    """

    name: str
    messages: Sequence[Mapping[str, object]]
    add_generation_prompt: bool = True
    tools: Sequence[dict] | None = None
    variables: Mapping[str, object] = field(default_factory=dict)


def compare(sides: "Sides") -> CheckpointComparison:
    """Holds what every chat template of the baseline renders beside the candidate's."""
    if sides.share_tokenizer:
        return CheckpointComparison()
    pair = sides.tokenizers
    before, after = map(_templates, pair)
    if not before:
        text = "only the candidate has a chat template"
        new = (Finding("new chat template", text),) if after else ()
        without = {"chat template": "the baseline has none"}
        return CheckpointComparison(
            new, not_compared=without if sides.baseline.kind == CAUSAL else {}
        )
    chats = list(fixed_chats())
    chats += [chat for data in sides.data if data.overrides.chat for chat in _asked(data)]
    taken = _taken(pair[0], chats)
    findings = _lost_tokens(pair, before)
    if not after:
        findings.append(Finding("chat template", "only the baseline has a chat template"))
    elif before != after or not are_one(*pair) or _variables(pair[0]) != _variables(pair[1]):
        known = {found.kind for found in findings}  # tokens that are lost are told by name
        rendering = _rendering(pair, taken)
        for name in sorted(before.keys() - {DEFAULT}):
            rendering += _named(pair, name, after, chats)
        if not rendering and any(
            _text_of(before, name) != _text_of(after, name) for name in before
        ):
            text = "the chat templates differ in their text, and no compared chat shows it"
            rendering.append(Finding("text of the chat template", text))
        findings += [found for found in rendering if found.kind not in known]
    findings += _elsewhere(sides, taken)
    if not taken:
        why = f"the baseline's renders no conversation: {render(pair[0], chats[0])[1]}"
        return CheckpointComparison(tuple(findings), not_compared={"chat template": why})
    return CheckpointComparison(tuple(findings), (f"{len(taken)} rendered chats",))


def _taken(tokenizer: PreTrainedTokenizerBase, chats: Iterable[Chat]) -> list[Chat]:
    """The chats that the default template renders; none behind one that takes too long."""
    found = []
    for chat in chats:
        text, reason = render(tokenizer, chat)
        if text:
            found.append(chat)
        elif ENDLESS in reason:
            break
    return found


def _text_of(templates: Mapping[str, object], name: str) -> str:
    """A template without the white space around it, which only the last line of a file adds."""
    return str(templates.get(name, "")).strip()


def render(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, template: str | None = None
) -> tuple[str, str]:
    """What a template writes of a conversation, or nothing and the reason.

    Args:
        template: the text or the name of one; by default the one that transformers takes.
    """
    tools = chat.tools and list(chat.tools)
    options = {"chat_template": template, "tools": tools, **chat.variables}
    try:
        text = rendered(tokenizer, chat.messages, "it fails", chat.add_generation_prompt, **options)
    except EvalError as error:
        return "", str(error)
    return text, ""


def assistant_turns(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What an assistant says in the fixed conversations, as the default template writes it behind
    the beginning of its turn."""
    found = []
    for name, messages in CONVERSATIONS.items():
        if messages[-1]["role"] != "assistant":
            continue
        for tools in (None, TOOLS):
            asked, reason = render(tokenizer, Chat(name, messages[:-1], True, tools))
            if ENDLESS in reason:
                return found
            whole, _ = render(tokenizer, Chat(name, messages, False, tools))
            if asked and whole.startswith(asked):
                found.append(whole.removeprefix(asked))
    return found


def _templates(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """All templates by name."""
    held = getattr(tokenizer, "chat_template", None)
    if isinstance(held, dict):
        return held
    return {DEFAULT: held} if held else {}


def _variables(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """What a template can read of a tokenizer."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items()}


def fixed_chats() -> Iterator[Chat]:
    """The fixed conversations, with and without tools and the beginning of an answer."""
    for (name, messages), prompt, tools in product(
        CONVERSATIONS.items(), (True, False), (None, TOOLS)
    ):
        asked = " that asks for an answer" if prompt else ""
        yield Chat(f"{name}{' with tools' if tools else ''}{asked}", messages, prompt, tools)
    for (how, variables), (name, messages) in product(VARIABLES.items(), CONVERSATIONS.items()):
        yield Chat(f"{name} {how}", messages, variables=variables)


def _asked(data: DataSet) -> Iterator[Chat]:
    """The prompts of a data set that is scored as a chat."""
    for item in data.items:
        if isinstance(item, Prompt):
            messages = [{"role": "user", "content": item.prompt}]
            yield Chat(f"{snippet(item.prompt, SHOWN)} in {data.name}", messages)


def _lost_tokens(pair: Pair, templates: Mapping[str, object]) -> list[Finding]:
    """Added tokens of the baseline that a template can write, in whichever of its branches, and
    that are none for the candidate."""
    whole = "\n".join(map(str, templates.values()))
    written = [
        token.content
        for token in pair[0].added_tokens_decoder.values()
        if token.content in whole and not token.content.isspace()
    ]
    ids = [encode(side, written, add_special_tokens=False) for side in pair]
    lost = [
        f"{snippet(token, SHOWN)}, which is {_shown(pair[0], before)} for the baseline and "
        f"{_shown(pair[1], after)} for the candidate"
        for token, before, after in zip(written, *ids, strict=True)
        if before != after
    ]
    if not lost:
        return []
    return [Finding("chat token", f"the chat template writes {listed(lost, '; ')}")]


def _shown(tokenizer: PreTrainedTokenizerBase, ids: list[int] | str) -> str:
    if isinstance(ids, str):
        return ids
    return f"token {token_text(tokenizer, ids[0])}" if len(ids) == 1 else f"{len(ids)} tokens"


def _rendering(
    pair: Pair, chats: Sequence[Chat], templates: tuple[str | None, str | None] = (None, None)
) -> list[Finding]:
    """Where two templates write other tokens of a conversation that the baseline's takes."""
    found: dict[str, dict[str, str]] = {"chat template": {}, "chat token": {}}
    for chat in chats:
        # A template may write the time, so a difference counts where it is there again.
        difference = _difference(pair, chat, templates)
        is_endless = difference is not None and ENDLESS in difference[1]
        if difference and (is_endless or _difference(pair, chat, templates)):
            kind, text = difference
            found[kind][chat.name] = text
        if is_endless:
            break  # the others would take as long
    told = {
        "chat template": first_of(found["chat template"], "the chat templates differ on"),
        "chat token": first_of(found["chat token"], "the tokenizers differ on a chat, on"),
    }
    return [Finding(kind, text) for kind, text in told.items() if text]


def _difference(
    pair: Pair, chat: Chat, templates: tuple[str | None, str | None]
) -> tuple[str, str] | None:
    """Kind and text of what differs in a conversation; None where its tokens are equal, or where
    the baseline takes no such conversation."""
    before, after = (
        render(side, chat, template) for side, template in zip(pair, templates, strict=True)
    )
    if not before[0]:
        return None
    if not after[0]:
        return "chat template", f"the candidate's is of no use, {after[1]}"
    one, two = (
        encode(side, [text], add_special_tokens=False)[0]
        for side, (text, _) in zip(pair, (before, after), strict=True)
    )
    told = parting(pair, (one, two), "the chat")
    if told and before[0] != after[0]:
        return "chat template", _texts(before[0], after[0])
    return ("chat token", told) if told else None


def _texts(before: str, after: str) -> str:
    place = first_difference(before, after)
    here = slice(max(place - 20, 0), place + 30)
    shown = [snippet(text[here], SHOWN) for text in (before, after)]
    return f"{shown[0]} for the baseline and {shown[1]} for the candidate"


def _named(
    pair: Pair, name: str, after: Mapping[str, object], chats: Sequence[Chat]
) -> list[Finding]:
    """What differs in a template that is asked for by its name."""
    if name not in after:
        text = f"the candidate has no chat template named {snippet(name, SHOWN)}"
        return [Finding("chat template", text)]
    return _rendering(pair, chats, (name, name))


def _elsewhere(sides: "Sides", chats: Sequence[Chat]) -> list[Finding]:
    """Templates of the candidate that transformers does not take, but another reader may."""
    findings = []
    for file in FILES:
        there, usual = (_entry(side, file) for side in (sides.candidate, sides.baseline))
        known = _templates(sides.tokenizers[1]).get(DEFAULT)
        if not there or there in (known, usual):
            continue
        for found in _rendering(sides.tokenizers, chats, (None, there)):
            text = f"{file} has a chat template of its own: {found.text}"
            findings.append(Finding("other chat template", text))
    return findings


def _entry(checkpoint: Checkpoint, name: str) -> str:
    """The default template in a file; empty where there is none."""
    file = checkpoint.tokenizer / name
    held = json_object(file).get("chat_template") if file.is_file() else None
    if isinstance(held, list):
        named = {e.get("name"): e.get("template") for e in held if isinstance(e, dict)}
        held = named.get(DEFAULT)
    return held if isinstance(held, str) else ""
