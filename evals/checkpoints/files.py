"""The files that a checkpoint is loaded from. Exactly these are hashed, counted and checked."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from compression_gates.evals.errors import EvalError

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TEMPLATES, CUSTOM_GENERATE = "additional_chat_templates", "custom_generate"
WEIGHTS = ("*.safetensors",)
SETTINGS = (
    "*.json", "*.txt", "*.model", "*.model.*", "*.tiktoken", "*.spm", "bpe.codes",
    "prophetnet.tokenizer", "*.jinja", "*.py",
)  # fmt: skip
"""Files at the top level of a folder that transformers may read: settings, tokenizers, chat
templates and code."""
_SHARD = re.compile(r"(shard-\d{5}-)?model-\d{5}-of-\d{5}\.safetensors")
"""Names of shards; those of distributed checkpoints have a prefix."""
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OF_TRAINER = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")
"""Files that the Trainer of transformers writes beside a model."""
_OTHER_FILES = {CONFIG: "configuration_files", "tokenizer_config.json": "fast_tokenizer_files"}
"""Settings by which a file names others that some versions of transformers read in its place."""


def json_object(file: Path) -> dict:
    """Return the object in a JSON file.

    Raises:
        EvalError: the file cannot be read, or does not hold an object.
    """
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise EvalError(f"{file}: not a JSON object ({error})") from error
    if not isinstance(value, dict):
        raise EvalError(f"{file}: not a JSON object")
    return value


def weight_files(path: Path) -> list[Path]:
    """Return the weight files that transformers reads from a folder; empty if there are none.

    The file that ``transformers_weights`` in ``config.json`` names takes precedence, then
    ``model.safetensors``, then the shards in ``model.safetensors.index.json``.

    Raises:
        EvalError: there are several sets of weights, a shard is missing or pickled, or a file is
            not a regular file in the folder.
    """
    named = named_weights(path)
    present = [name for name in (WHOLE, INDEX) if _exists(path / name)]
    main = named or next(iter(present), "")
    if not main:
        return []
    check_file(path, path / main)
    files = _shards(path, path / main) if main.endswith(".json") else [path / main]
    for file in files:
        check_file(path, file)
    _check_one_set(path, path / main, files, present)
    return files


def weight_map(index: Path) -> dict[str, str]:
    """Return the name of the file of each tensor, as an index gives it.

    Raises:
        EvalError: the file is not an index of weights.
    """
    try:
        names = json.loads(index.read_bytes())["weight_map"]
        if all(isinstance(name, str) for name in names.values()) and names:
            return dict(names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvalError(f"{index}: not an index of weights") from error
    raise EvalError(f"{index}: not an index of weights")


def unread_weights(path: Path) -> list[str]:
    """Return the names of weight files at the top level of a folder that are not loaded."""
    read = {file.resolve() for file in weight_files(path)}
    files = {f for name in ("*.safetensors", *_PICKLED, "*.gguf") for f in path.glob(name)}
    unread = [file.name for file in files if file.is_file() and file.resolve() not in read]
    return sorted(name for name in unread if name not in _OF_TRAINER)


def pickled_weights(path: Path) -> str:
    """Return the name of a pickled weight file in a folder, or an empty string."""
    return next((f.name for pattern in _PICKLED for f in sorted(path.glob(pattern))), "")


def read_files(path: Path, weights: bool = True) -> list[Path]:
    """Return all files of a folder that loading may read.

    These are settings, tokenizer, chat templates, code and, if ``weights``, weight files.

    Raises:
        EvalError: one of them is not a regular file in the folder.
    """
    files = {file for pattern in SETTINGS for file in path.glob(pattern)}
    files |= {*(path / TEMPLATES).glob("*.jinja"), *_named_files(path), *_code(path)}
    if weights:
        files |= {file for pattern in WEIGHTS for file in path.glob(pattern)}
        files |= {*weight_files(path)}
    files = {file for file in files if not file.is_dir()}
    for file in files:
        check_file(path, file)
    return sorted(files)


def check_file(folder: Path, file: Path) -> None:
    """Raise an EvalError unless ``file`` is a regular file in ``folder``.

    A snapshot in the cache of the Hugging Face hub consists of links to the ``blobs`` beside it.
    These count as files in the folder.
    """
    try:
        target = file.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise EvalError(f"{file} is a broken link; remove it, or restore its target") from error
    root = folder.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        repository = root.parents[1]
        roots += [repository / "blobs", repository.parent / "blobs"]
    if not any(target.is_relative_to(place) for place in roots):
        raise EvalError(
            f"{folder}: {_relative(folder, file)} lies outside of the folder, at {target}; "
            "copy it into the folder"
        )
    if not target.is_file():
        raise EvalError(f"{file} is not a regular file; remove it, or replace it by a file")


def _exists(file: Path) -> bool:
    """Return whether a path exists and is not a directory; true for a broken link."""
    return os.path.lexists(file) and not file.is_dir()


def _relative(folder: Path, file: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def named_weights(path: Path) -> str:
    """Return ``transformers_weights`` of the configuration, or an empty string."""
    config = path / CONFIG
    named = _settings(path, CONFIG).get("transformers_weights")
    if named is None:
        return ""
    endings = (".safetensors", ".safetensors.index.json")
    if not isinstance(named, str) or not named.endswith(endings):
        raise EvalError(f"{config}: transformers_weights = {named!r} is not a *.safetensors file")
    return named


def _shards(path: Path, index: Path) -> list[Path]:
    names = sorted(set(weight_map(index).values()))
    for name in names:
        if not name.endswith(".safetensors"):
            raise EvalError(
                f"{index} names {name!r}, which is not a *.safetensors file; a pickled file can "
                "run code: convert the weights to safetensors"
            )
        if not _exists(path / name):
            raise EvalError(f"{path}: {name} is missing, but {index.name} names it")
    return [path / name for name in names]


def _check_one_set(path: Path, main: Path, files: list[Path], present: list[str]) -> None:
    """Raise an EvalError if other programs, or other versions, may read other weights."""
    read = {file.resolve() for file in files}
    others = [path / name for name in present if name != INDEX]
    if INDEX in present and main != path / INDEX:
        with suppress(EvalError):  # transformers does not read the index, so it may be invalid
            others += [path / name for name in weight_map(path / INDEX).values()]
    others += [file for file in path.glob("*.safetensors") if _SHARD.fullmatch(file.name)]
    for other in sorted(others):
        if other.is_file() and other.resolve() not in read:
            raise EvalError(
                f"{path} holds two sets of weights; remove either {main.name} and its files, or "
                f"{_relative(path, other)}"
            )


def _named_files(path: Path) -> Iterator[Path]:
    """Yield the files that settings name in place of others."""
    for file, setting in _OTHER_FILES.items():
        names = _settings(path, file).get(setting)
        for name in names if isinstance(names, list) else ():
            if isinstance(name, str) and _exists(path / name):
                yield path / name


def _code(path: Path) -> Iterator[Path]:
    """Yield the Python files that trusted code may consist of."""
    classes = _classes(path)
    for name in classes:
        module = path / f"{name.rpartition('--')[2].rpartition('.')[0]}.py"
        if _exists(module):
            yield module
    for folder in [path] if classes else [path / CUSTOM_GENERATE]:
        for parent, folders, names in os.walk(folder):
            yield from (Path(parent, name) for name in names if name.endswith(".py"))
            links = [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
            for link in links:
                check_file(path, link)


def borrowed_code(path: Path) -> str:
    """Return the class in another repository that ``auto_map`` names, or an empty string."""
    return next((name for name in _classes(path) if "--" in name), "")


def _classes(path: Path) -> list[str]:
    """Return the classes that ``auto_map`` names."""
    return [
        name for file in _OTHER_FILES for name in _strings(_settings(path, file).get("auto_map"))
    ]


def _settings(path: Path, name: str) -> dict:
    """Return the object in a JSON file of a folder; empty if there is no such file."""
    if not (path / name).is_file():
        return {}
    check_file(path, path / name)
    return json_object(path / name)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for part in value.values() for text in _strings(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _strings(part))
