"""Saves a tokenizer as its files were.

What a tokenizer was called with stays in it: after ``tokenizer(text, truncation=True,
max_length=8)`` transformers saves ``truncation: 8``, at which every other reader of
``tokenizer.json`` cuts its inputs. Compression changes no tokenizer, so its files are copied.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import huggingface_hub
from transformers import AutoTokenizer, PreTrainedTokenizerBase

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "tokenizer.*.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Writes a tokenizer to ``directory``: the bytes that it was loaded from where they still
    describe it, otherwise as transformers does, without the truncation of its last call."""
    source = _folder(tokenizer)
    if source is not None and _describes(source, tokenizer):
        files = {file for pattern in _FILES for file in source.glob(pattern) if file.is_file()}
        for file in sorted(files):
            target = directory / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
        return
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(directory)


def _folder(tokenizer: PreTrainedTokenizerBase) -> Path | None:
    """Where a tokenizer was loaded from; None for one that was made in memory."""
    name = str(tokenizer.name_or_path or "")
    if name and Path(name).is_dir():
        return Path(name)
    with suppress(ValueError):  # of a name that no repository can have
        for file in ("tokenizer_config.json", "tokenizer.json"):
            cached = huggingface_hub.try_to_load_from_cache(name, file)
            if isinstance(cached, str):
                return Path(cached).parent
    return None


def _describes(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is still what its files say, but for its padding, which loaders set."""
    try:
        saved = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError):
        return False
    return _content(saved) == _content(tokenizer)


def _content(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    special = {k: v for k, v in tokenizer.special_tokens_map.items() if k != "pad_token"}
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
    return tokenizer.get_vocab(), added, special, tokenizer.chat_template
