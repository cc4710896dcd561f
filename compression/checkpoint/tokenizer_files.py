"""Saves a tokenizer as its files were.

What a tokenizer was called with stays in it: after ``tokenizer(text, truncation=True,
max_length=8)`` transformers saves ``truncation: 8``, at which every other reader of
``tokenizer.json`` cuts its inputs. Compression changes no tokenizer, so its files are copied.
"""

import copy
import shutil
from contextlib import suppress
from pathlib import Path

import huggingface_hub
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from compression_gates.compression.errors import CompressionError, is_failure, reason_of
from compression_gates.compression.model.quiet import quiet

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
    describe it, otherwise as transformers does, without truncation and padding of its last call.

    Raises:
        CompressionError: what was written does not load, or is another tokenizer.
    """
    source = _folder(tokenizer)
    if source is not None and not _difference(source, tokenizer):
        copied = _copy(source, directory, tokenizer)
        if not _difference(directory, tokenizer):
            return
        for file in copied:
            file.unlink()
    if tokenizer.is_fast:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(directory)
    if reason := _difference(directory, tokenizer):
        raise CompressionError(f"its tokenizer {reason}")


def _copy(source: Path, directory: Path, tokenizer: PreTrainedTokenizerBase) -> list[Path]:
    patterns = {*_FILES, *type(tokenizer).vocab_files_names.values()}
    files = {file for pattern in patterns for file in source.glob(pattern) if file.is_file()}
    targets = []
    for file in sorted(files):
        target = directory / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
        targets.append(target)
    return targets


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


def _difference(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Why the files of a folder are not this tokenizer; empty where they are, but for its padding,
    which loaders set."""
    try:
        with quiet():
            saved = AutoTokenizer.from_pretrained(folder)
    except BaseException as error:  # it is anybody's code that loads it
        if not is_failure(error):
            raise
        return f"does not load: {reason_of(error)}"
    if saved.get_vocab() != tokenizer.get_vocab():
        return "loads with another vocabulary"
    # A special token that was set since is an added one only when it is loaded again.
    if not _added(tokenizer) <= _added(saved):
        return "loads without an added token"
    if _special(saved) != _special(tokenizer):
        return "loads with other special tokens"
    if saved.chat_template != tokenizer.chat_template:
        return "loads with another chat template"
    return ""


def _added(tokenizer: PreTrainedTokenizerBase) -> set[tuple[int, str]]:
    return {(index, str(token)) for index, token in tokenizer.added_tokens_decoder.items()}


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    return {k: v for k, v in tokenizer.special_tokens_map.items() if k != "pad_token"}
