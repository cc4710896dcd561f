"""Tokenizer, ends and chat template in a GGUF header, beside the baseline's."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.chat import Chat, render
from compression_gates.evals.checkpoints.encoding import first_difference
from compression_gates.evals.checkpoints.findings import CheckpointComparison, Finding
from compression_gates.evals.checkpoints.gguf_header import Header
from compression_gates.evals.foreign_text import snippet
from compression_gates.evals.models.configurations import end_tokens, load_generation_config

if TYPE_CHECKING:
    from compression_gates.evals.checkpoints.compare import Sides

_MODELS = {"BPE": ("gpt2", "llama", "gemma4"), "Unigram": ("llama", "t5"), "WordPiece": ("bert",)}
"""What llama.cpp may call the tokenizers of the tokenizers library."""
_PLAIN_TYPES = {1: "normal", 5: "unused", 6: "byte"}
"""Types of tokens that llama.cpp does not find in a text as a whole."""
_UNUSED, _PADDING = 5, "[PAD"
_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
         "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
         "<|end_of_text|>", "<end_of_utterance>", "<turn|>", "<|tool_response>")  # fmt: skip
"""Tokens by which llama.cpp ends an answer whatever the header says."""
_CHAT = Chat(
    "a chat",
    [
        {"role": "user", "content": "Where does Rufus live?"},
        {"role": "assistant", "content": "In Merrin."},
        {"role": "user", "content": "And Lena?"},
    ],
)


def compare(sides: "Sides", header: Header) -> CheckpointComparison:
    """Holds what a header says of texts beside the baseline's tokenizer and generation."""
    if not header.tokens:
        why = f"{header.name} has no tokenizer; llama.cpp needs one"
        return CheckpointComparison(not_compared={"GGUF tokenizer": why})
    tokenizer = sides.tokenizers[0]
    found = {
        "GGUF tokenizer": [
            *_model(header, tokenizer),
            *_tokens(header, tokenizer),
            *_types(header, tokenizer),
            *_merges(header, tokenizer),
            *_added(header, tokenizer),
            *_begin(header, tokenizer),
            *_template(header, tokenizer),
        ],
        "GGUF ends": list(_ends(header, tokenizer, sides)),
        "GGUF note": list(_unused(header, tokenizer)),
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
    if held == "gpt2" and header.token("pre") is None:
        yield f"{header.name} names no tokenizer.ggml.pre; llama.cpp splits texts by default"


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


def _types(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Special tokens that llama.cpp would read as plain text."""
    types, tokens = header.token("token_type"), header.tokens
    if types is None:
        return
    if not isinstance(types, list) or len(types) != len(tokens):
        yield f"{header.name} has {len(tokens)} tokens and another number of token types"
        return
    for index, token in sorted(tokenizer.added_tokens_decoder.items()):
        if token.special and index < len(types) and types[index] in _PLAIN_TYPES:
            yield (
                f"the type of the special token {token.content!r} is {_PLAIN_TYPES[types[index]]} "
                f"in {header.name}, so llama.cpp reads it as plain text"
            )
            return


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


def _added(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Whether a text begins and ends with the same tokens."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    meant = {"bos": whole[:1] == [tokenizer.bos_token_id] and whole != bare,
             "eos": whole[-1:] == [tokenizer.eos_token_id] and whole != bare}  # fmt: skip
    for name, adds in meant.items():
        held = header.token(f"add_{name}_token")
        if held is None and header.token("model") == "llama":
            held = name == "bos"  # llama.cpp's own default for this model of tokenizers
        if held is not None and bool(held) != adds:
            words = ["does not add", "adds"]
            yield (
                f"the baseline's tokenizer {words[adds]} the {name} token, and llama.cpp "
                f"{words[bool(held)]} it to what it reads by {header.name}"
            )


def _begin(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    held, meant = header.token("bos_token_id"), tokenizer.bos_token_id
    if held is not None and meant is not None and held != meant:
        yield f"the bos token is {meant} for the baseline and {held} in {header.name}"


def _template(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    meant, held = tokenizer.chat_template, header.fields.get("tokenizer.chat_template")
    if isinstance(meant, dict):
        meant = meant.get("default")
    if (held or None) == (meant or None):
        return
    if not held or not meant:
        has = "only the baseline has" if meant else f"only the header of {header.name} has"
        yield f"{has} a chat template"
        return
    # A template that fails is told by the reason.
    sides = ["".join(render(tokenizer, _CHAT, str(template))) for template in (meant, held)]
    if sides[0] != sides[1]:
        place = first_difference(*sides)
        shown = [snippet(side[max(place - 10, 0) : place + 30], 60) for side in sides]
        yield (
            f"a chat is {shown[0]} from character {place + 1} on for the baseline, and {shown[1]} "
            f"by the header of {header.name}"
        )


def _ends(header: Header, tokenizer: PreTrainedTokenizerBase, sides: "Sides") -> Iterator[str]:
    """Tokens that end an answer of the baseline and not of the file, or the other way round."""
    meant = {*end_tokens(load_generation_config(sides.baseline, sides.trust_remote_code))}
    meant = meant or {tokenizer.eos_token_id} - {None}
    named = {header.token(f"{name}_token_id") for name in ("eot", "eom")} - {None}
    end = header.token("eos_token_id")
    if end is None and header.token("model") == "llama":
        end = 2  # llama.cpp's own default for this model of tokenizers
    named |= {end} - {None}
    by_text = {index for index, token in enumerate(header.tokens) if token in _ENDS}
    lost = meant - named - by_text
    strange = end is not None and end not in meant | {tokenizer.eos_token_id}
    if lost or strange:
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
