"""Save a tokenizer by copying the files that it was loaded from.

``save_pretrained`` also saves the arguments of the last call: after ``tokenizer(text,
truncation=True, max_length=8)``, ``tokenizer.json`` truncates all inputs to 8 tokens. Compression
does not change the tokenizer, so its files are copied instead.
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
    """Save a tokenizer to ``directory``.

    The files that it was loaded from are copied if they still describe it. Otherwise
    ``save_pretrained`` writes them, without truncation and padding of the last call.

    Raises:
        CompressionError: the files do not load as the same tokenizer.
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
    """Return the folder a tokenizer was loaded from, or None if it was created in memory."""
    name = str(tokenizer.name_or_path or "")
    if name and Path(name).is_dir():
        return Path(name)
    with suppress(ValueError):  # not a valid name of a repository
        for file in ("tokenizer_config.json", "tokenizer.json"):
            cached = huggingface_hub.try_to_load_from_cache(name, file)
            if isinstance(cached, str):
                return Path(cached).parent
    return None


def _difference(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Describe how the tokenizer in a folder differs, or return an empty string.

    The padding token is not compared, since callers often set it after loading.
    """
    try:
        with quiet():
            saved = AutoTokenizer.from_pretrained(folder)
    except BaseException as error:  # tokenizer classes can be third-party code
        if not is_failure(error):
            raise
        return f"does not load: {reason_of(error)}"
    if saved.get_vocab() != tokenizer.get_vocab():
        return "loads with another vocabulary"
    # A special token set after loading becomes an added token only in the saved files.
    if not _added(tokenizer) <= _added(saved):
        return "loads without some of its added tokens"
    if _special(saved) != _special(tokenizer):
        return "loads with other special tokens"
    if saved.chat_template != tokenizer.chat_template:
        return "loads with another chat template"
    return ""


def _added(tokenizer: PreTrainedTokenizerBase) -> set[tuple[int, str]]:
    return {(index, str(token)) for index, token in tokenizer.added_tokens_decoder.items()}


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    return {k: v for k, v in tokenizer.special_tokens_map.items() if k != "pad_token"}
