"""Tokenizer, ends and chat template in a GGUF header, beside the baseline's."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.chat import (
    DEFAULT,
    ENDLESS,
    fixed_chats,
    render,
)
from compression_gates.evals.checkpoints.encoding import adds_around, first_difference
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.gguf_header import Header
from compression_gates.evals.checkpoints.gguf_splitting import (
    adds_bos_by_default,
    splitting_differences,
)
from compression_gates.evals.checkpoints.stress import is_control, is_reserved
from compression_gates.evals.errors import listed
from compression_gates.evals.foreign_text import snippet
from compression_gates.evals.models.configurations import end_tokens, load_generation_config

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_MODELS = {"BPE": ("gpt2", "llama", "gemma4"), "Unigram": ("llama", "t5"), "WordPiece": ("bert",)}
"""What llama.cpp may call the tokenizers of the tokenizers library."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_TYPES = {_NORMAL: "normal", _CONTROL: "control", _USER_DEFINED: "user-defined",
          _UNUSED: "unused", 6: "byte"}  # fmt: skip
_PLAIN_TYPES = (_NORMAL, _UNUSED, 6)
"""Types of tokens that llama.cpp does not find in a text as a whole."""
_PADDING, _BYTE = "[PAD", re.compile(r"<0x[0-9A-Fa-f]{2}>")
_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
         "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
         "<|end_of_text|>", "<end_of_utterance>", "<turn|>", "<|tool_response>")  # fmt: skip
"""Tokens by which llama.cpp ends an answer whatever the header says."""
TOOL_USE = "tool_use"
"""The name of a template that is taken where tools are given."""
_SCORE_TOLERANCE = 1e-3
_MOST_RISING = 0.01
"""Share of the merges along which scores may rise."""


def compare(sides: "Sides", header: Header) -> CheckpointComparison:
    """Holds what a header says of texts beside the baseline's tokenizer and generation."""
    if not header.tokens:
        why = f"{header.name} has no tokenizer; llama.cpp needs one"
        return CheckpointComparison(not_compared={"GGUF tokenizer": why})
    tokenizer = sides.tokenizers[0]
    ends = {*end_tokens(load_generation_config(sides.baseline, sides.trust_remote_code))}
    ends = ends or {tokenizer.eos_token_id} - {None}
    split, unknown_split = splitting_differences(header, tokenizer)
    found = {
        "GGUF tokenizer": [
            *_model(header, tokenizer),
            *split,
            *_tokens(header, tokenizer),
            *_types(header, tokenizer, ends),
            *_merges(header, tokenizer),
            *_scores(header, tokenizer),
            *_spaces(header, tokenizer),
            *_added(header, tokenizer),
            *_begin(header, tokenizer),
            *_templates(header, tokenizer),
        ],
        "GGUF ends": list(_ends(header, tokenizer, ends)),
        "GGUF note": [
            *unknown_split,
            *_unread_spaces(header, tokenizer),
            *_unused(header, tokenizer),
        ],
    }
    findings = tuple(Finding(kind, text) for kind, texts in found.items() for text in texts)
    return CheckpointComparison(findings, ("GGUF tokenizer", "GGUF chat template"))


def _backend(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, object]:
    """``tokenizer.json`` of a tokenizer; empty where it has none."""
    return json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}


def _model(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    held = header.token("model")
    kind = _backend(tokenizer).get("model", {}).get("type")
    if kind in _MODELS and held not in _MODELS[kind]:
        yield (
            f"tokenizer.ggml.model is {held!r:.40} in {header.name}, and the baseline's tokenizer "
            f"is a {kind}, which llama.cpp calls {' or '.join(map(repr, _MODELS[kind]))}"
        )


def _tokens(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The first token under whose id the header has another."""
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = header.tokens
    lost = [index for index in sorted(known) if index >= len(tokens)]
    if lost:
        yield (
            f"{header.name} has {len(tokens)} tokens, and the baseline's tokenizer gives "
            f"{lost[0]} to {known[lost[0]]!r}"
        )
    if header.token("model") == "bert":
        return  # llama.cpp writes pieces of words otherwise
    other = [i for i, token in enumerate(tokens) if i in known and not _same(known[i], token)]
    if other:
        first = other[0]
        yield (
            f"token {first} is {known[first]!r:.40} for the baseline and {tokens[first]!r:.40} in "
            f"{header.name}" + (f", and {len(other) - 1} more differ" if other[1:] else "")
        )


def _same(one: str, other: str) -> bool:
    """Whether two are one token: spaces of added tokens are written in either way."""
    return one.replace("\u2581", " ") == other.replace("\u2581", " ")


def _types(
    header: Header, tokenizer: PreTrainedTokenizerBase, ends: Collection[int]
) -> Iterator[str]:
    """Tokens of a type by which llama.cpp reads or writes them otherwise; one of each kind."""
    types, tokens = header.token("token_type"), header.tokens
    falls_back = bool(_backend(tokenizer).get("model", {}).get("byte_fallback"))
    added = tokenizer.added_tokens_decoder
    if types is None:
        if any(token.special for token in added.values()):
            yield f"{header.name} has no token types, so llama.cpp reads special tokens as text"
        return
    if not isinstance(types, list) or len(types) != len(tokens):
        yield f"{header.name} has {len(tokens)} tokens and another number of token types"
        return
    told = set()
    for index, token in sorted((i, token) for token, i in tokenizer.get_vocab().items()):
        if index >= len(types):
            continue
        special = index in added and added[index].special
        if special and types[index] in _PLAIN_TYPES:
            kind = "special token", "llama.cpp reads it as plain text"
        elif special and types[index] == _USER_DEFINED and index in ends:
            kind = "end token", "llama.cpp writes it into answers"
        elif index in added:
            continue
        elif types[index] == _NORMAL and _BYTE.fullmatch(token) and falls_back:
            kind = "byte token", "llama.cpp writes its name in place of the byte"
        elif types[index] == _CONTROL and not (is_control(token) or is_reserved(token)):
            kind = "ordinary token", "llama.cpp leaves it out of answers"
        else:
            continue
        if kind not in told:
            told.add(kind)
            yield (
                f"the type of the {kind[0]} {token!r:.40} is {_TYPES[types[index]]} in "
                f"{header.name}, so {kind[1]}"
            )


def _merges(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    meant = _backend(tokenizer).get("model", {}).get("merges")
    if not meant or header.token("model") != "gpt2":
        return
    held = header.token("merges")
    held = held if isinstance(held, list) else []
    pairs = [" ".join(p.replace(" ", "\u0120") for p in m) if isinstance(m, list) else m
             for m in meant]  # fmt: skip
    if held == pairs:
        return
    place = next((i for i, (a, b) in enumerate(zip(pairs, held, strict=False)) if a != b), None)
    if place is None:
        yield f"{header.name} has {len(held)} merges, the baseline's tokenizer {len(pairs)}"
    else:
        yield (
            f"merge {place + 1} is {pairs[place]!r:.40} for the baseline and {held[place]!r:.40} "
            f"in the header of {header.name}"
        )


def _scores(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Scores of tokens, by which llama.cpp merges where a tokenizer has no merges of its own."""
    if header.token("model") not in ("llama", "t5"):
        return
    held, types = header.token("scores"), header.token("token_type")
    known = min(len(header.tokens), max(tokenizer.get_vocab().values()) + 1)
    if not isinstance(held, list) or len(held) < known:
        yield f"{header.name} has no score for each token, so llama.cpp cuts words otherwise"
        return
    model = _backend(tokenizer).get("model", {})
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}

    def is_plain(token: str, index: int) -> bool:
        normal = not isinstance(types, list) or index >= len(types) or types[index] == _NORMAL
        return index < len(held) and normal and token not in added

    if model.get("type") == "Unigram":
        for index, (token, score) in enumerate(model["vocab"]):
            if is_plain(token, index) and not math.isclose(
                held[index], score, rel_tol=_SCORE_TOLERANCE, abs_tol=_SCORE_TOLERANCE
            ):
                yield (
                    f"the score of token {index}, {token!r:.40}, is {score:g} for the baseline and "
                    f"{held[index]:g} in {header.name}"
                )
                return
    elif model.get("type") == "BPE":
        pieces = ["".join(m if isinstance(m, list) else m.split(" ")) for m in model["merges"]]
        ids = [(piece, model["vocab"].get(piece)) for piece in dict.fromkeys(pieces)]
        ranked = [held[i] for piece, i in ids if i is not None and is_plain(piece, i)]
        rising = sum(later >= score for score, later in pairwise(ranked))
        if rising > _MOST_RISING * len(ranked):
            yield (
                f"the scores in {header.name} do not fall along the baseline's merges, at {rising} "
                f"of {len(ranked)}, so llama.cpp merges in another order"
            )


def _spaces(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What becomes of spaces before and inside of a text."""
    model, words = header.token("model"), ["does not put", "puts"]
    if model in ("llama", "t5"):
        held = header.token("add_space_prefix")
        held = model == "llama" if held is None else bool(held)  # by default
        meant = _has_prefix(tokenizer)
        if held != meant:
            yield (
                f"the baseline's tokenizer {words[meant]} a space before a text, and llama.cpp "
                f"{words[held]} one by {header.name}"
            )
    if model == "t5":
        yield from _extra_spaces(header, tokenizer)


def _has_prefix(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a", add_special_tokens=False).input_ids
    return bool(ids) and tokenizer.convert_ids_to_tokens(ids[0]).startswith("\u2581")


def _extra_spaces(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    held = header.token("remove_extra_whitespaces")
    one, two = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a b", "a  b"))
    if held is not None and bool(held) != (one == two):
        words = ["keeps", "removes"]
        yield (
            f"the baseline's tokenizer {words[one == two]} spaces behind a space, and "
            f"tokenizer.ggml.remove_extra_whitespaces of {header.name} {words[bool(held)]} them"
        )


def _unread_spaces(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """A key that llama.cpp reads only of other models of tokenizers."""
    if header.token("model") != "t5":
        for told in _extra_spaces(header, tokenizer):
            yield f"{told}, which llama.cpp does not look at for this tokenizer"


def _added(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Whether a text begins and ends with the same tokens."""
    model = header.token("model")
    usual = {"bos": adds_bos_by_default(header), "eos": model == "t5"}
    for name, adds in adds_around(tokenizer).items():
        held = header.token(f"add_{name}_token")
        if held is None and model not in ("llama", "gpt2", "t5"):
            continue
        held = usual[name] if held is None else bool(held)
        if held != adds:
            words = ["does not add", "adds"]
            yield (
                f"the baseline's tokenizer {words[adds]} the {name} token, and llama.cpp "
                f"{words[held]} it to what it reads by {header.name}"
            )


def _begin(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    held, meant = header.token("bos_token_id"), tokenizer.bos_token_id
    if held is not None and meant is not None and held != meant:
        yield f"the bos token is {meant} for the baseline and {held} in {header.name}"


def _templates(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What the fixed conversations look like: with tools by the template that is named for them,
    where there is one, as transformers and llama.cpp choose it."""
    meant = tokenizer.chat_template or {}
    meant = dict(meant) if isinstance(meant, dict) else {DEFAULT: meant}
    held = {
        DEFAULT: header.fields.get("tokenizer.chat_template"),
        TOOL_USE: header.fields.get(f"tokenizer.chat_template.{TOOL_USE}"),
    }
    held = {name: str(template) for name, template in held.items() if template}
    if (DEFAULT in held) != (DEFAULT in meant):
        has = f"only the header of {header.name} has"
        yield f"{'only the baseline has' if DEFAULT in meant else has} a chat template"
        return
    differing = {}
    for chat in fixed_chats():
        name = TOOL_USE if chat.tools else DEFAULT
        one, two = (str(side.get(name, side.get(DEFAULT, ""))) for side in (meant, held))
        if one == two:
            continue
        before = render(tokenizer, chat, one)
        if ENDLESS in before[1]:
            break
        if not before[0]:
            continue  # the baseline takes no such conversation
        # A template that fails is told by the reason.
        texts = "".join(before), "".join(render(tokenizer, chat, two))
        if texts[0] != texts[1]:
            differing[chat.name] = texts
        if ENDLESS in texts[1]:
            break
    if differing:
        texts = next(iter(differing.values()))
        place = first_difference(*texts)
        shown = [snippet(text[max(place - 10, 0) : place + 30], 60) for text in texts]
        yield (
            f"a chat is {shown[0]} from character {place + 1} on for the baseline, and {shown[1]} "
            f"by the header of {header.name}, of {listed(list(differing))}"
        )


def _ends(
    header: Header, tokenizer: PreTrainedTokenizerBase, meant: Collection[int]
) -> Iterator[str]:
    """Tokens that end an answer of the baseline and not of the file, or the other way round."""
    further = {header.token(f"{name}_token_id") for name in ("eot", "eom")} - {None}
    end = header.token("eos_token_id")
    if end is None and header.token("model") == "llama":
        end = 2  # llama.cpp's own default for this model of tokenizers
    named = further | {end} - {None}
    by_text = {index for index, token in enumerate(header.tokens) if token in _ENDS}
    lost = set(meant) - named - by_text
    strange = end is not None and end not in {*meant, tokenizer.eos_token_id}
    words = {
        index
        for token, index in tokenizer.get_vocab().items()
        if index not in tokenizer.added_tokens_decoder and not is_control(token)
    }
    if lost or strange or further & (words - set(meant)):
        yield (
            f"generation ends at {sorted(meant)} for the baseline, {sorted(named)} by the header "
            f"of {header.name}"
        )


def _unused(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Tokens that no score depends on: padding, unknown, and those that the baseline lacks."""
    for name, key in (("pad", "padding"), ("unk", "unknown")):
        held, meant = header.token(f"{key}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if held is not None and meant is not None and held != meant:
            yield f"the {name} token is {meant} for the baseline and {held} in {header.name}"
    known, types = set(tokenizer.get_vocab().values()), header.token("token_type")
    more = [
        token
        for index, token in enumerate(header.tokens)
        if index not in known
        and not token.startswith(_PADDING)
        and not (isinstance(types, list) and index < len(types) and types[index] == _UNUSED)
    ]
    if more:
        yield f"{header.name} has {len(more)} tokens more than the baseline, as {more[0]!r:.40}"
