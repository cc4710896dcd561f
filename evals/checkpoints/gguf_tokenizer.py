"""Comparison of tokenizer, end tokens and chat template in a GGUF header with the baseline's."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.chat import (
    DEFAULT,
    chat_templates,
    fixed_chats,
    render_each,
)
from compression_gates.evals.checkpoints.encoding import adds_special_tokens, text_difference
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.gguf_header import Header
from compression_gates.evals.checkpoints.gguf_splitting import (
    adds_bos_by_default,
    splitting_differences,
)
from compression_gates.evals.checkpoints.stress import is_control, is_reserved
from compression_gates.evals.checkpoints.tokens import summarized
from compression_gates.evals.models.configurations import end_tokens, load_generation_config

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_MODELS = {"BPE": ("gpt2", "llama", "gemma4"), "Unigram": ("llama", "t5"), "WordPiece": ("bert",)}
"""Names that llama.cpp uses for the models of the tokenizers library."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
_TYPES = {_NORMAL: "normal", _CONTROL: "control", _USER_DEFINED: "user-defined",
          _UNUSED: "unused", _BYTE: "byte"}  # fmt: skip
_PLAIN_TYPES = (_NORMAL, _UNUSED, _BYTE)
"""Types of tokens that llama.cpp does not recognize in a text."""
_PADDING, _BYTE_TOKEN = "[PAD", re.compile(r"<0x[0-9A-Fa-f]{2}>")
_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
         "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
         "<|end_of_text|>", "<end_of_utterance>", "<turn|>", "<|tool_response>")  # fmt: skip
"""Tokens that always end an answer in llama.cpp, regardless of the header."""
TOOL_USE = "tool_use"
"""The name of the template that is used with tools."""
_SCORE_TOLERANCE = 1e-3
_MOST_RISING = 0.01
"""Largest share of the merges along which scores may rise."""


def compare(sides: "Sides", header: Header) -> CheckpointComparison:
    """Compare how a header and the baseline's files encode texts and end answers."""
    if not header.tokens:
        why = f"{header.name} has no tokenizer; llama.cpp needs one"
        return CheckpointComparison(not_compared={"GGUF tokenizer": why})
    tokenizer = sides.tokenizers[0]
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if tokenizer.is_fast else {}
    ends = {*end_tokens(load_generation_config(sides.baseline, sides.trust_remote_code))}
    ends = ends or {tokenizer.eos_token_id} - {None}
    split, unknown_split = splitting_differences(header, tokenizer)
    texts = {
        "GGUF tokenizer": [
            *_model(header, model),
            *split,
            *_tokens(header, tokenizer),
            *_types(header, tokenizer, model, ends),
            *_merges(header, model),
            *_scores(header, tokenizer, model),
            *_space_prefix(header, tokenizer),
            *_added(header, tokenizer),
            *_templates(header, tokenizer),
        ],
        "GGUF ends": list(_ends(header, tokenizer, ends)),
        "GGUF note": [*unknown_split, *_unused(header, tokenizer)],
    }
    removed = list(_extra_spaces(header, tokenizer))
    if header.token("model") == "t5":
        texts["GGUF tokenizer"] += removed
    else:
        texts["GGUF note"] += [f"{text}; llama.cpp ignores this key here" for text in removed]
    findings = tuple(Finding(kind, text) for kind in texts for text in texts[kind])
    return CheckpointComparison(findings, ("GGUF tokenizer", "GGUF chat template"))


def _model(header: Header, model: Mapping[str, object]) -> Iterator[str]:
    name, kind = header.token("model"), model.get("type")
    if kind in _MODELS and name not in _MODELS[kind]:
        yield (
            f"tokenizer.ggml.model is {name!r:.40} in {header.name}, but the baseline's tokenizer "
            f"is a {kind}, which llama.cpp names {' or '.join(map(repr, _MODELS[kind]))}"
        )


def _tokens(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Find ids that the header and the baseline assign to different tokens."""
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = header.tokens
    lost = [index for index in sorted(known) if index >= len(tokens)]
    if lost:
        yield (
            f"{header.name} has {len(tokens)} tokens, but the baseline has token {lost[0]}, "
            f"{known[lost[0]]!r}"
        )
    if header.token("model") == "bert":
        return  # llama.cpp spells WordPiece tokens differently
    different = [
        index
        for index, token in enumerate(tokens)
        if index in known and known[index].replace("\u2581", " ") != token.replace("\u2581", " ")
    ]
    if different:
        first = different[0]
        yield (
            f"token {first} is {known[first]!r:.40} for the baseline and {tokens[first]!r:.40} in "
            f"{header.name}" + (f", and {len(different) - 1} more differ" if different[1:] else "")
        )


def _types(
    header: Header,
    tokenizer: PreTrainedTokenizerBase,
    model: Mapping[str, object],
    ends: Collection[int],
) -> Iterator[str]:
    """Find tokens whose type changes how llama.cpp reads or writes them; one of each kind."""
    types, tokens = header.token("token_type"), header.tokens
    added = tokenizer.added_tokens_decoder
    if types is None:
        if any(token.special for token in added.values()):
            yield f"{header.name} has no token types, so llama.cpp reads special tokens as text"
        return
    if not isinstance(types, list) or len(types) != len(tokens):
        yield f"{header.name} has {len(tokens)} tokens and a different number of token types"
        return
    special = {index for index, token in added.items() if token.special}
    reported = set()
    for index, token in sorted((index, token) for token, index in tokenizer.get_vocab().items()):
        if index >= len(types):
            continue
        if index in special and types[index] in _PLAIN_TYPES:
            kind, effect = "special token", "reads it as plain text"
        elif index in special and types[index] == _USER_DEFINED and index in ends:
            kind, effect = "end token", "writes it into answers"
        elif index in added:
            continue
        elif (
            types[index] == _NORMAL and _BYTE_TOKEN.fullmatch(token) and model.get("byte_fallback")
        ):
            kind, effect = "byte token", "writes its name instead of the byte"
        elif types[index] == _CONTROL and not (is_control(token) or is_reserved(token)):
            kind, effect = "ordinary token", "omits it from answers"
        else:
            continue
        if kind not in reported:
            reported.add(kind)
            yield (
                f"the type of the {kind} {token!r:.40} is {_TYPES[types[index]]} in "
                f"{header.name}, so llama.cpp {effect}"
            )


def _merges(header: Header, model: Mapping[str, object]) -> Iterator[str]:
    if not model.get("merges") or header.token("model") != "gpt2":
        return
    merges = header.token("merges")
    merges = merges if isinstance(merges, list) else []
    expected = [
        " ".join(part.replace(" ", "\u0120") for part in merge)
        if isinstance(merge, list)
        else merge
        for merge in model["merges"]
    ]
    if merges == expected:
        return
    pairs = enumerate(zip(expected, merges, strict=False))
    place = next((place for place, (one, two) in pairs if one != two), None)
    if place is None:
        yield f"{header.name} has {len(merges)} merges, the baseline's tokenizer {len(expected)}"
    else:
        yield (
            f"merge {place + 1} is {expected[place]!r:.40} for the baseline and "
            f"{merges[place]!r:.40} in the header of {header.name}"
        )


def _scores(
    header: Header, tokenizer: PreTrainedTokenizerBase, model: Mapping[str, object]
) -> Iterator[str]:
    """Compare the scores by which llama.cpp merges tokens if a header has no merges."""
    if header.token("model") not in ("llama", "t5"):
        return
    scores, types = header.token("scores"), header.token("token_type")
    known = min(len(header.tokens), max(tokenizer.get_vocab().values()) + 1)
    if not isinstance(scores, list) or len(scores) < known:
        yield f"{header.name} lacks scores of some tokens, so llama.cpp splits words differently"
        return
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}

    def is_scored(token: str, index: int) -> bool:
        normal = not isinstance(types, list) or index >= len(types) or types[index] == _NORMAL
        return index < len(scores) and normal and token not in added

    if model.get("type") == "Unigram":
        for index, (token, score) in enumerate(model["vocab"]):
            if is_scored(token, index) and not math.isclose(
                scores[index], score, rel_tol=_SCORE_TOLERANCE, abs_tol=_SCORE_TOLERANCE
            ):
                yield (
                    f"the score of token {index}, {token!r:.40}, is {score:g} for the baseline and "
                    f"{scores[index]:g} in {header.name}"
                )
                return
    elif model.get("type") == "BPE":
        merged = ["".join(m if isinstance(m, list) else m.split(" ")) for m in model["merges"]]
        ids = [(token, model["vocab"].get(token)) for token in dict.fromkeys(merged)]
        ranked = [scores[i] for token, i in ids if i is not None and is_scored(token, i)]
        rising = sum(later >= score for score, later in pairwise(ranked))
        if rising > _MOST_RISING * len(ranked):
            yield (
                f"the scores in {header.name} do not decrease in the order of the baseline's "
                f"merges, at {rising} of {len(ranked)}, so llama.cpp merges in a different order"
            )


def _space_prefix(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Compare whether a space is added before a text."""
    model, adds = header.token("model"), header.token("add_space_prefix")
    if model not in ("llama", "t5"):
        return
    adds = model == "llama" if adds is None else bool(adds)
    ids = tokenizer("a", add_special_tokens=False).input_ids
    expected = bool(ids) and tokenizer.convert_ids_to_tokens(ids[0]).startswith("\u2581")
    if adds != expected:
        yield (
            f"the baseline's tokenizer {_adds(expected)} a space before a text, and llama.cpp "
            f"{_adds(adds)} one for {header.name}"
        )


def _adds(adds: bool) -> str:
    return "adds" if adds else "does not add"


def _extra_spaces(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Compare whether repeated spaces are removed."""
    removes = header.token("remove_extra_whitespaces")
    one, two = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a b", "a  b"))
    if removes is not None and bool(removes) != (one == two):
        words = ["keeps", "removes"]
        yield (
            f"the baseline's tokenizer {words[one == two]} repeated spaces, and "
            f"tokenizer.ggml.remove_extra_whitespaces of {header.name} {words[bool(removes)]} them"
        )


def _added(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Compare the tokens that are added before and after a text."""
    model = header.token("model")
    defaults = {"bos": adds_bos_by_default(header), "eos": model == "t5"}
    for name, expected in adds_special_tokens(tokenizer).items():
        adds = header.token(f"add_{name}_token")
        if adds is None and model not in ("llama", "gpt2", "t5"):
            continue
        adds = defaults[name] if adds is None else bool(adds)
        if adds != expected:
            yield (
                f"the baseline's tokenizer {_adds(expected)} the {name} token, and llama.cpp "
                f"{_adds(adds)} it for {header.name}"
            )
    begin, expected = header.token("bos_token_id"), tokenizer.bos_token_id
    if begin is not None and expected is not None and begin != expected:
        yield f"the bos token is {expected} for the baseline and {begin} in {header.name}"


def _templates(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Compare the renderings of the fixed conversations.

    With tools, transformers and llama.cpp use the template that is named for them, if there is one.
    """
    expected = chat_templates(tokenizer)
    templates = {
        DEFAULT: header.fields.get("tokenizer.chat_template"),
        TOOL_USE: header.fields.get(f"tokenizer.chat_template.{TOOL_USE}"),
    }
    templates = {name: str(template) for name, template in templates.items() if template}
    if (DEFAULT in templates) != (DEFAULT in expected):
        side = "the baseline" if DEFAULT in expected else f"the header of {header.name}"
        yield f"only {side} has a chat template"
        return
    differences = {}
    for name in (DEFAULT, TOOL_USE):
        one, two = (str(side.get(name, side.get(DEFAULT, ""))) for side in (expected, templates))
        if one == two:
            continue
        chats = [chat for chat in fixed_chats() if bool(chat.tools) == (name == TOOL_USE)]
        renderings = (render_each(tokenizer, chats, template) for template in (one, two))
        for chat, before, after in zip(chats, *renderings, strict=False):
            if before.text and before != after:
                failure = f"the template {after.failure}"
                differences[chat.name] = (
                    text_difference(before.text, after.text) if after.text else failure
                )
    if differences:
        start = f"the chat template in the header of {header.name} differs on"
        yield summarized(differences, start)


def _ends(
    header: Header, tokenizer: PreTrainedTokenizerBase, expected: Collection[int]
) -> Iterator[str]:
    """Compare the tokens that end an answer."""
    further = {header.token(f"{name}_token_id") for name in ("eot", "eom")} - {None}
    end = header.token("eos_token_id")
    if end is None and header.token("model") == "llama":
        end = 2  # llama.cpp's default for this tokenizer
    named = further | {end} - {None}
    by_text = {index for index, token in enumerate(header.tokens) if token in _ENDS}
    lost = set(expected) - named - by_text
    unexpected = end is not None and end not in {*expected, tokenizer.eos_token_id}
    words = {
        index
        for token, index in tokenizer.get_vocab().items()
        if index not in tokenizer.added_tokens_decoder and not is_control(token)
    }
    if lost or unexpected or further & (words - set(expected)):
        yield (
            f"generation ends at {sorted(expected)} for the baseline and {sorted(named)} in the "
            f"header of {header.name}"
        )


def _unused(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Compare tokens that no score depends on: padding, unknown, and additional ones."""
    for name, key in (("pad", "padding"), ("unk", "unknown")):
        token, expected = header.token(f"{key}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if token is not None and expected is not None and token != expected:
            yield f"the {name} token is {expected} for the baseline and {token} in {header.name}"
    known, types = set(tokenizer.get_vocab().values()), header.token("token_type")
    more = [
        token
        for index, token in enumerate(header.tokens)
        if index not in known
        and not token.startswith(_PADDING)
        and not (isinstance(types, list) and index < len(types) and types[index] == _UNUSED)
    ]
    if more:
        yield f"{header.name} has {len(more)} tokens that the baseline lacks, as {more[0]!r:.40}"
