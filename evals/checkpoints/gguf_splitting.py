"""How llama.cpp cuts a text before it merges bytes, by the name in ``tokenizer.ggml.pre``."""

from collections.abc import Mapping
from itertools import zip_longest

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.encoding import SHOWN
from compression_gates.evals.checkpoints.gguf_header import Header
from compression_gates.evals.checkpoints.stress import TEXTS
from compression_gates.evals.foreign_text import snippet

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Of GPT-2."""
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Of GPT-4 and what followed it, by how digits are cut."""
_SPLITS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"): (
        _CL100K.format(digits=r"\p{N}{1,3}"),
    ),
    ("qwen2", "deepseek-r1-qwen", "stablelm2"): (_CL100K.format(digits=r"\p{N}"),),
    ("gpt-2", "phi-2", "olmo", "mpt"): (_WORDS,),
    ("starcoder", "refact", "smollm", "command-r"): (r"\p{N}", _WORDS),
}
"""Expressions that cut a text one after the other, for names whose models are known to be cut
alike in transformers. There are more names, which are not judged."""
_DEFAULT = "default"
_BEGINNING = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
              "lfm2", "jina-v5-nano", "tekken", "chameleon", "gemma4")  # fmt: skip
"""Names with which llama.cpp adds the bos token where a header does not say."""


def adds_bos_by_default(header: Header) -> bool:
    """Whether llama.cpp adds the bos token to a text where a header does not say."""
    if header.token("model") == "gpt2":
        return header.token("pre") in _BEGINNING
    return header.token("model") == "llama"


def splitting_differences(
    header: Header, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[str]]:
    """What is wrong with ``tokenizer.ggml.pre`` for the baseline's tokenizer.

    Returns:
        Faults, and what can only be noted: names that are not known here.
    """
    if header.token("model") != "gpt2" or not tokenizer.is_fast:
        return [], []
    held = header.token("pre")
    if held is None:
        return [f"{header.name} names no tokenizer.ggml.pre; llama.cpp splits texts by default"], []
    meant = tokenizer.backend_tokenizer.pre_tokenizer
    right = [name for names in _SPLITS for name in names if not _parting(meant, names)]
    if not right or held in right:
        return [], []
    text = (
        f"tokenizer.ggml.pre is {str(held)!r:.40} in {header.name}, and the baseline splits texts "
        f"as {right[0]}"
    )
    known = next((names for names in _SPLITS if held in names), None)
    if known is not None:
        one, two = _parting(meant, known)
        text += f", {snippet(one, SHOWN)} where llama.cpp splits off {snippet(two, SHOWN)}"
    elif held != _DEFAULT:
        return [], [f"{text}; that name is not known here"]
    return [text], []


def _parting(
    meant: pre_tokenizers.PreTokenizer | None, names: tuple[str, ...]
) -> tuple[str, str] | None:
    """The first part of a fixed text that a tokenizer splits off and llama.cpp does not, and
    llama.cpp's in its place; None where it splits all of them alike."""
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in _SPLITS[names]]
    by_name = pre_tokenizers.Sequence([*splits, last])
    for text in TEXTS.values():
        pieces = [
            [piece for piece, _ in side.pre_tokenize_str(text)] if side else [text]
            for side in (meant, by_name)
        ]
        if pieces[0] != pieces[1]:
            one, two = next(pair for pair in zip_longest(*pieces, fillvalue="") if len({*pair}) > 1)
            return one, two
    return None
