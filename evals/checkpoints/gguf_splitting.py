"""Pre-tokenization in llama.cpp, which ``tokenizer.ggml.pre`` selects by name."""

from collections.abc import Mapping
from itertools import zip_longest

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from compression_gates.evals.checkpoints.encoding import SHOWN
from compression_gates.evals.checkpoints.gguf_header import Header
from compression_gates.evals.checkpoints.stress import TEXTS
from compression_gates.evals.foreign_text import snippet

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Pattern of GPT-2."""
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pattern of GPT-4 and later tokenizers, which differ in how they split digits."""
_SPLITS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"): (
        _CL100K.format(digits=r"\p{N}{1,3}"),
    ),
    ("qwen2", "deepseek-r1-qwen", "stablelm2"): (_CL100K.format(digits=r"\p{N}"),),
    ("gpt-2", "phi-2", "olmo", "mpt"): (_WORDS,),
    ("starcoder", "refact", "smollm", "command-r"): (r"\p{N}", _WORDS),
}
"""Patterns that are applied in order, for names whose equivalent in transformers is known.

Other names are not judged.
"""
_DEFAULT = "default"
_ADD_BOS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
              "lfm2", "jina-v5-nano", "tekken", "chameleon", "gemma4")  # fmt: skip
"""Names with which llama.cpp adds the bos token by default."""


def adds_bos_by_default(header: Header) -> bool:
    """Return whether llama.cpp adds the bos token if the header does not specify it."""
    if header.token("model") == "gpt2":
        return header.token("pre") in _ADD_BOS
    return header.token("model") == "llama"


def splitting_differences(
    header: Header, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[str]]:
    """Compare the pre-tokenization that a header selects with the baseline's.

    Returns:
        Messages about wrong names, and messages about names that are not known here.
    """
    if header.token("model") != "gpt2" or not tokenizer.is_fast:
        return [], []
    pre = header.token("pre")
    if pre is None:
        return [f"{header.name} has no tokenizer.ggml.pre, so llama.cpp uses its default"], []
    expected = tokenizer.backend_tokenizer.pre_tokenizer
    matching = [
        name for names in _SPLITS for name in names if not _split_difference(expected, names)
    ]
    if not matching or pre in matching:
        return [], []
    text = (
        f"tokenizer.ggml.pre is {str(pre)!r:.40} in {header.name}, and the baseline splits texts "
        f"as {matching[0]}"
    )
    known = next((names for names in _SPLITS if pre in names), None)
    if known is not None:
        one, two = _split_difference(expected, known)
        text += f": {snippet(one, SHOWN)} instead of {snippet(two, SHOWN)}"
    elif pre != _DEFAULT:
        return [], [f"{text}; the name in the header is unknown"]
    return [text], []


def _split_difference(
    expected: pre_tokenizers.PreTokenizer | None, names: tuple[str, ...]
) -> tuple[str, str] | None:
    """Return the first differing part of a fixed text, as a tokenizer and as llama.cpp split it.

    None if all fixed texts are split alike.
    """
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in _SPLITS[names]]
    by_name = pre_tokenizers.Sequence([*splits, last])
    for text in TEXTS.values():
        one, two = (
            [piece for piece, _ in side.pre_tokenize_str(text)] if side else [text]
            for side in (expected, by_name)
        )
        for pair in zip_longest(one, two, fillvalue=""):
            if pair[0] != pair[1]:
                return pair
    return None
