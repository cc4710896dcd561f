"""Comparison of the chat templates of two checkpoints by the tokens of rendered conversations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.checkpoint import CAUSAL, Checkpoint
from compression_gates.evals.checkpoints.encoding import (
    SHOWN,
    TokenIds,
    TokenizerPair,
    both_sides,
    encode,
    text_difference,
    token_difference,
    token_text,
)
from compression_gates.evals.checkpoints.files import json_object
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.stress import CONVERSATIONS, TOOLS, VARIABLES
from compression_gates.evals.checkpoints.tokens import same_tokenizer, summarized
from compression_gates.evals.data.items import DataSet, Prompt
from compression_gates.evals.errors import EvalError, listed
from compression_gates.evals.foreign_text import snippet
from compression_gates.evals.guard import TimeUp
from compression_gates.evals.scoring.prompts import render_chat

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

DEFAULT = "default"
FILES = ("tokenizer_config.json", "chat_template.json")
"""Files in which programs other than transformers look for a template."""


@dataclass(frozen=True)
class Chat:
    """A conversation and the arguments with which it is rendered.

    Attributes:
        name: used in messages.
        messages: with ``role`` and ``content``.
        add_generation_prompt: whether the beginning of an answer is rendered.
        tools: in the JSON schema of ``apply_chat_template``.
        variables: further variables of the template.
    """

    name: str
    messages: Sequence[Mapping[str, object]]
    add_generation_prompt: bool = True
    tools: Sequence[dict] | None = None
    variables: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Rendering:
    """The text that a template writes for a conversation, or the reason why it fails.

    Attributes:
        text: empty if the template fails.
        failure: one line that begins with "fails"; empty if there is a text.
        timed_out: whether the template exceeded the time limit.
    """

    text: str = ""
    failure: str = ""
    timed_out: bool = False


def compare(sides: "Sides") -> CheckpointComparison:
    """Compare what each chat template of the baseline renders with the candidate's."""
    if sides.share_tokenizer:
        return CheckpointComparison()
    pair = sides.tokenizers
    before, after = map(chat_templates, pair)
    if not before:
        new = Finding("new chat template", "only the candidate has a chat template")
        why = {"chat template": "the baseline has none"} if sides.baseline.kind == CAUSAL else {}
        return CheckpointComparison((new,) if after else (), not_compared=why)
    chats = [*fixed_chats(), *_scored_chats(sides.data)]
    renderings = list(render_each(pair[0], chats))
    usable = [chat for chat, rendering in zip(chats, renderings, strict=False) if rendering.text]
    findings = _lost_tokens(pair, before)
    if not after:
        findings.append(Finding("chat template", "only the baseline has a chat template"))
    else:
        reported = {finding.kind for finding in findings}
        differences = _template_differences(pair, before, after, chats, usable)
        findings += [finding for finding in differences if finding.kind not in reported]
    findings += _other_files(sides, usable)
    if not usable:
        why = f"the baseline's template {renderings[0].failure}"
        return CheckpointComparison(tuple(findings), not_compared={"chat template": why})
    return CheckpointComparison(tuple(findings), (f"{len(usable)} rendered chats",))


def render(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, template: str | None = None
) -> Rendering:
    """Render a conversation.

    Args:
        template: the text or the name of a template; by default the one that transformers selects.
    """
    tools = chat.tools and list(chat.tools)
    options = {"chat_template": template, "tools": tools, **chat.variables}
    try:
        text = render_chat(tokenizer, chat.messages, "fails", chat.add_generation_prompt, **options)
    except EvalError as error:
        return Rendering(failure=str(error), timed_out=isinstance(error.__cause__, TimeUp))
    return Rendering(text)


def render_each(
    tokenizer: PreTrainedTokenizerBase, chats: Iterable[Chat], template: str | None = None
) -> Iterator[Rendering]:
    """Render conversations in order, up to the first one that exceeds the time limit."""
    for chat in chats:
        rendering = render(tokenizer, chat, template)
        yield rendering
        if rendering.timed_out:
            return


def assistant_turns(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the assistant's answers in the fixed conversations, as the default template renders
    them after the generation prompt."""
    answered = [
        (name, messages, tools)
        for name, messages in CONVERSATIONS.items()
        if messages[-1]["role"] == "assistant"
        for tools in (None, TOOLS)
    ]
    prompts = (Chat(name, messages[:-1], True, tools) for name, messages, tools in answered)
    whole = (Chat(name, messages, False, tools) for name, messages, tools in answered)
    renderings = zip(*(render_each(tokenizer, chats) for chats in (prompts, whole)), strict=False)
    return [
        chat.text.removeprefix(prompt.text)
        for prompt, chat in renderings
        if prompt.text and chat.text.startswith(prompt.text)
    ]


def fixed_chats() -> Iterator[Chat]:
    """Yield the fixed conversations, with and without tools and a generation prompt."""
    for (name, messages), prompt, tools in product(
        CONVERSATIONS.items(), (True, False), (None, TOOLS)
    ):
        details = f"{' with tools' if tools else ''}{' that asks for an answer' if prompt else ''}"
        yield Chat(f"{name}{details}", messages, prompt, tools)
    for (details, variables), (name, messages) in product(VARIABLES.items(), CONVERSATIONS.items()):
        yield Chat(f"{name} {details}", messages, variables=variables)


def _scored_chats(data_sets: Iterable[DataSet]) -> Iterator[Chat]:
    """Yield the prompts of data sets that are scored as chats."""
    for data in data_sets:
        for item in data.items if data.overrides.chat else ():
            if isinstance(item, Prompt):
                messages = [{"role": "user", "content": item.prompt}]
                yield Chat(f"{snippet(item.prompt, SHOWN)} in {data.name}", messages)


def chat_templates(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """Return all templates of a tokenizer by name."""
    templates = getattr(tokenizer, "chat_template", None)
    if isinstance(templates, dict):
        return templates
    return {DEFAULT: templates} if templates else {}


def _template_differences(
    pair: TokenizerPair,
    before: Mapping[str, object],
    after: Mapping[str, object],
    chats: Sequence[Chat],
    usable: Sequence[Chat],
) -> list[Finding]:
    """Compare the default and the named templates.

    Args:
        before: the baseline's templates by name.
        after: the candidate's.
        chats: conversations for the named templates.
        usable: conversations that the baseline's default template renders.
    """
    if before == after and same_tokenizer(*pair) and _variables(pair[0]) == _variables(pair[1]):
        return []
    findings = _rendering_differences(pair, usable)
    for name in sorted(before.keys() - {DEFAULT}):
        if name in after:
            findings += _rendering_differences(pair, chats, (name, name))
        else:
            text = f"the candidate has no chat template named {snippet(name, SHOWN)}"
            findings.append(Finding("chat template", text))
    # The last line end of a file depends on the program that writes it.
    if not findings and any(
        str(before[name]).strip() != str(after.get(name, "")).strip() for name in before
    ):
        text = "the chat templates have different texts, but render the compared chats alike"
        findings.append(Finding("text of the chat template", text))
    return findings


def _variables(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the variables that a tokenizer provides to a template."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items()}


def _lost_tokens(pair: TokenizerPair, templates: Mapping[str, object]) -> list[Finding]:
    """Find added tokens in the text of the baseline's templates that the candidate lacks.

    This includes branches of the templates that no compared conversation reaches.
    """
    whole = "\n".join(map(str, templates.values()))
    written = [
        token.content
        for token in pair[0].added_tokens_decoder.values()
        if token.content in whole and not token.content.isspace()
    ]
    ids = [encode(side, written, add_special_tokens=False) for side in pair]
    lost = [
        f"{snippet(token, SHOWN)}, which is {both_sides(*map(_shown_ids, pair, both))}"
        for token, *both in zip(written, *ids, strict=True)
        if both[0] != both[1]
    ]
    if not lost:
        return []
    return [Finding("chat token", f"the chat template writes {listed(lost, '; ')}")]


def _shown_ids(tokenizer: PreTrainedTokenizerBase, ids: TokenIds) -> str:
    if isinstance(ids, str):
        return ids
    return f"token {token_text(tokenizer, ids[0])}" if len(ids) == 1 else f"{len(ids)} tokens"


def _rendering_differences(
    pair: TokenizerPair,
    chats: Sequence[Chat],
    templates: tuple[str | None, str | None] = (None, None),
) -> list[Finding]:
    """Find conversations that two templates render to different tokens."""
    starts = {
        "chat template": "the chat templates differ on",
        "chat token": "the tokenizers differ on a chat, on",
    }
    differences: dict[str, dict[str, str]] = {kind: {} for kind in starts}
    sides = list(zip(pair, templates, strict=True))
    renderings = (render_each(side, chats, template) for side, template in sides)
    for chat, *both in zip(chats, *renderings, strict=False):
        difference = _difference(pair, *both)
        # A template may write the current time, so only a repeated difference counts.
        if difference and (
            both[1].timed_out
            or _difference(pair, *(render(side, chat, template) for side, template in sides))
        ):
            kind, text = difference
            differences[kind][chat.name] = text
    return [
        Finding(kind, summarized(differences[kind], start))
        for kind, start in starts.items()
        if differences[kind]
    ]


def _difference(pair: TokenizerPair, before: Rendering, after: Rendering) -> tuple[str, str] | None:
    """Return the kind and the description of a difference between two renderings.

    None if the tokens are equal, or if the baseline's template fails.
    """
    if not before.text:
        return None
    if not after.text:
        return "chat template", f"the candidate's template {after.failure}"
    one, two = (
        encode(side, [rendering.text], add_special_tokens=False)[0]
        for side, rendering in zip(pair, (before, after), strict=True)
    )
    difference = token_difference(pair, (one, two), "the chat")
    if difference and before.text != after.text:
        return "chat template", text_difference(before.text, after.text)
    return ("chat token", difference) if difference else None


def _other_files(sides: "Sides", chats: Sequence[Chat]) -> list[Finding]:
    """Compare templates of the candidate that only programs other than transformers read."""
    findings = []
    default = chat_templates(sides.tokenizers[1]).get(DEFAULT)
    for file in FILES:
        before, after = (_template_in(side, file) for side in (sides.baseline, sides.candidate))
        if after and after not in (default, before):
            findings += [
                Finding("other chat template", f"{file} has another chat template: {found.text}")
                for found in _rendering_differences(sides.tokenizers, chats, (None, after))
            ]
    return findings


def _template_in(checkpoint: Checkpoint, name: str) -> str:
    """Return the default template in a JSON file; empty if there is none."""
    file = checkpoint.tokenizer / name
    template = json_object(file).get("chat_template") if file.is_file() else None
    if isinstance(template, list):
        named = {e.get("name"): e.get("template") for e in template if isinstance(e, dict)}
        template = named.get(DEFAULT)
    return template if isinstance(template, str) else ""
