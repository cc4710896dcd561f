"""The files that a checkpoint is loaded from: those are hashed, counted and checked."""

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
"""Files at the top of a folder that transformers reads settings, tokenizers, chat templates and
code from."""
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OTHER_FILES = {CONFIG: "configuration_files", "tokenizer_config.json": "fast_tokenizer_files"}
"""Settings by which a file names others to be read in its place, by version of transformers."""


def json_object(file: Path) -> dict:
    """What a JSON file holds.

    Raises:
        EvalError: it cannot be read, or holds no object.
    """
    try:
        described = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise EvalError(f"{file}: not a JSON object ({error})") from error
    if not isinstance(described, dict):
        raise EvalError(f"{file}: not a JSON object")
    return described


def weight_files(path: Path) -> list[Path]:
    """The files of weights that transformers reads, none where it finds none.

    A file that ``transformers_weights`` of ``config.json`` names comes first, then
    ``model.safetensors``, then the shards of ``model.safetensors.index.json``.

    Raises:
        EvalError: there are several sets of weights, a shard is missing or pickled, or a file is
            not a regular one in the folder.
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


def indexed(index: Path) -> dict[str, str]:
    """The ``weight_map`` of an index: the file of each tensor.

    Raises:
        EvalError: it is none.
    """
    try:
        found = json.loads(index.read_bytes())["weight_map"]
        if all(isinstance(name, str) for name in found.values()) and found:
            return dict(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvalError(f"{index}: not an index of weights") from error
    raise EvalError(f"{index}: not an index of weights")


def unread_weights(path: Path) -> list[str]:
    """Names of files at the top of a folder that hold weights and are not loaded."""
    read = {file.resolve() for file in weight_files(path)}
    files = {f for name in ("*.safetensors", *_PICKLED, "*.gguf") for f in path.glob(name)}
    unread = [file.name for file in files if file.is_file() and file.resolve() not in read]
    return sorted(name for name in unread if name not in _NO_WEIGHTS)


_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")
"""What the trainer of transformers leaves beside a model."""


def pickled_weights(path: Path) -> str:
    """The name of a pickled file of weights in a folder, or nothing."""
    return next((f.name for pattern in _PICKLED for f in sorted(path.glob(pattern))), "")


def read_files(path: Path, weights: bool = True) -> list[Path]:
    """Every file of a folder that loading may read: settings, tokenizer, chat templates, code and,
    unless they come from elsewhere, weights.

    Raises:
        EvalError: one of them is no regular file in the folder.
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
    """Raises an EvalError unless a file is a regular one that lies in ``folder``.

    A snapshot in the cache of the Hugging Face hub consists of links into the ``blobs`` beside it,
    which count as in the folder.
    """
    try:
        target = file.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise EvalError(f"{file} leads to no file; remove it or put the file there") from error
    root = folder.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        repository = root.parents[1]
        roots += [repository / "blobs", repository.parent / "blobs"]
    if not any(target.is_relative_to(place) for place in roots):
        raise EvalError(
            f"{folder}: {_within(folder, file)} lies outside of the folder, at {target}; copy it in"
        )
    if not target.is_file():
        raise EvalError(f"{file} is no regular file; a checkpoint is made of regular files")


def _exists(file: Path) -> bool:
    """Whether something is there that is no directory; a broken link is."""
    return os.path.lexists(file) and not file.is_dir()


def _within(folder: Path, file: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def named_weights(path: Path) -> str:
    """``transformers_weights`` of the configuration, or nothing."""
    config = path / CONFIG
    named = _settings(path, CONFIG).get("transformers_weights")
    if named is None:
        return ""
    endings = (".safetensors", ".safetensors.index.json")
    if not isinstance(named, str) or not named.endswith(endings):
        raise EvalError(f"{config}: transformers_weights = {named!r} is no *.safetensors file")
    return named


def _shards(path: Path, index: Path) -> list[Path]:
    names = sorted(set(indexed(index).values()))
    for name in names:
        if not name.endswith(".safetensors"):
            raise EvalError(
                f"{index} names {name!r}, which is no *.safetensors file; a pickled one can run "
                "code: convert the weights to safetensors"
            )
        if not _exists(path / name):
            raise EvalError(f"{path}: {name} is missing, which {index.name} names")
    return [path / name for name in names]


def _check_one_set(path: Path, main: Path, files: list[Path], present: list[str]) -> None:
    """Raises an EvalError where another reader, or the next, may take other weights."""
    read = {file.resolve() for file in files}
    others = [path / name for name in present if name != INDEX]
    if INDEX in present and main != path / INDEX:
        with suppress(EvalError):  # transformers does not look at it
            others += [path / name for name in indexed(path / INDEX).values()]
    top = {file.name: file for file in path.glob("*.safetensors")}
    others += [file for name, file in top.items() if _SHARD.fullmatch(name)]
    others += [file for name, file in top.items() if _DISTRIBUTED.fullmatch(name)]
    for other in sorted(others):
        if other.is_file() and other.resolve() not in read:
            raise EvalError(
                f"{path} holds two sets of weights; which is meant? Remove {main.name} and its "
                f"files, or {_within(path, other)}"
            )


def _named_files(path: Path) -> Iterator[Path]:
    """Files that settings name in place of others."""
    for file, setting in _OTHER_FILES.items():
        names = _settings(path, file).get(setting)
        for name in names if isinstance(names, list) else ():
            if isinstance(name, str) and _exists(path / name):
                yield path / name


def _code(path: Path) -> Iterator[Path]:
    """Python files that may run, were they trusted; those at the top are read anyway."""
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
    """The class in another repository that a checkpoint's ``auto_map`` names, or nothing."""
    return next((name for name in _classes(path) if "--" in name), "")


def _classes(path: Path) -> list[str]:
    """Classes in code that a checkpoint brings, as its ``auto_map`` names them."""
    return [
        name for file in _OTHER_FILES for name in _strings(_settings(path, file).get("auto_map"))
    ]


def _settings(path: Path, name: str) -> dict:
    """What a JSON file of a folder holds; nothing where there is none."""
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
